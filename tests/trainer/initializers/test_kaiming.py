import math

import torch
from torch import nn

from trainer import MixtureLinear
from trainer.initializers.kaiming import kaiming


def test_a_layer_stays_as_it_was_made_and_no_random_number_is_drawn():
    torch.manual_seed(0)
    layer = MixtureLinear(nn.Linear(100, 8), [4, 2], 1)
    A, state = layer.A.detach().clone(), torch.get_rng_state()
    kaiming(layer)
    assert torch.equal(layer.A, A)
    assert not layer.B.any()
    assert torch.equal(torch.get_rng_state(), state)
    assert 0 < layer.A.abs().max() <= 1 / math.sqrt(100)
    assert not hasattr(layer, "A0")
