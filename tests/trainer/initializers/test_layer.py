from torch import nn

from trainer import MixtureLinear
from trainer.initializers.layer import NewLayer


def test_a_new_mixture_has_all_that_an_initialisation_may_need():
    layer = MixtureLinear(nn.Linear(6, 5), [2, 1], 1, scaling=[0.5, 2.0])
    assert all(getattr(layer, name) is not None for name in NewLayer.__annotations__)
    assert (tuple(layer.A.shape), tuple(layer.B.shape), tuple(layer.scaling.shape)) == ((3, 6), (5, 3), (2, 3))
    assert (layer.ranks, layer.scalings) == ((2, 1), (0.5, 2.0))
    assert layer.A.abs().sum() > 0
    assert not layer.B.any()
