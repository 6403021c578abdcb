import pytest
import torch
from torch import nn

from planner.modules.linear import dense_weight
from trainer import MixtureLinear
from trainer.initializers import INITIALIZERS
from trainer.layers.offset import subtract_start


def test_the_names_of_the_initialisations_in_the_order_in_which_they_are_listed():
    assert list(INITIALIZERS) == ["kaiming", "svd"]


@pytest.mark.parametrize("name", INITIALIZERS)
def test_every_row_says_what_it_does(name):
    assert INITIALIZERS[name].run.__doc__


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("ranks", [[3], [2, 1, 4]])
@torch.no_grad()
def test_every_start_is_the_base_at_even_gates(name, ranks):
    torch.manual_seed(0)
    base = nn.Linear(12, 9).double()
    weight = dense_weight(base, torch.float64).clone()
    layer = MixtureLinear(base, ranks, len(ranks), scaling=[1.5] * len(ranks))
    INITIALIZERS[name].run(layer)
    assert INITIALIZERS[name].changes_base == bool(layer.B.any())
    subtract_start(layer, "site")
    if layer.router is not None:
        layer.router.zero_()
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, base.bias), rtol=1e-12, atol=1e-12)
