"""Mixtures that do not start at zero: what is taken off the base, kept, and put right after another machine's start."""

import pytest
import torch
from torch import nn

from spectra import InputError
from tests import models
from tests.trainer.examples import uniform
from trainer import MixtureLinear, MixtureSettings, apply_plan
from trainer.layers.offset import offset_mixtures, restore_start, subtract_start


def mixture(ranks=(2, 1), scaling=(0.5, 2.0), base=None):
    torch.manual_seed(0)
    return MixtureLinear(base or nn.Linear(6, 5).double(), ranks, 1, scaling=list(scaling))


def moved(layer):
    """The layer with a B that is not zero."""
    nn.init.normal_(layer.B)
    return layer


def test_what_starts_at_zero_is_left_alone():
    layer = mixture()
    weight = layer.base.weight.clone()
    subtract_start(layer, "site")
    assert torch.equal(layer.base.weight, weight)
    assert not hasattr(layer, "A0")
    assert offset_mixtures(nn.ModuleDict({"q": layer})) == {}


def test_the_base_loses_what_the_experts_add_at_even_gates():
    layer = moved(mixture())
    weight = layer.base.weight.detach().clone()
    subtract_start(layer, "site")
    (A_one, A_other), (B_one, B_other) = layer.A.detach().split([2, 1]), layer.B.detach().split([2, 1], dim=1)
    torch.testing.assert_close(layer.base.weight, weight - (0.5 * B_one @ A_one + 2.0 * B_other @ A_other) / 2)
    assert torch.equal(layer.A0, layer.A)
    assert torch.equal(layer.B0, layer.B)
    assert layer.A0.data_ptr() != layer.A.data_ptr()  # training moves A, not where it began
    assert offset_mixtures(nn.ModuleDict({"q": layer, "k": mixture()})) == {"q": layer}


def test_conv1d_bases_lose_it_too():
    from transformers.pytorch_utils import Conv1D

    layer = moved(mixture(ranks=(2,), scaling=(1.0,), base=Conv1D(5, 6)))
    x = torch.randn(3, 6)
    before = layer.base(x)
    subtract_start(layer, "site")
    torch.testing.assert_close(layer(x), before, rtol=1e-5, atol=1e-5)


def test_quantised_bases_are_refused():
    layer = moved(mixture(ranks=(1,), scaling=(1.0,), base=nn.Linear(4, 4)))
    layer.base.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(
        InputError, match="site 'site': this `init` changes the base's weight, which is quantised; use an unquant"
    ):
        subtract_start(layer, "site")
    assert not hasattr(layer, "A0")


def test_singular_vectors_of_another_machine_are_settled(tiny_llama):
    plan = uniform(tiny_llama, "6000", max_experts=2)
    model = apply_plan(models.build("llama"), plan, MixtureSettings(init="svd"))
    layer = next(module for module in model.modules() if isinstance(module, MixtureLinear))
    weight = layer.base.weight.clone()
    A0, B0 = layer.A0.clone(), layer.B0.clone()
    restore_start(layer, A0, B0)
    assert torch.equal(layer.base.weight, weight)  # to the bit: nothing differs
    restore_start(layer, -A0, -B0)  # flipped signs: the same product
    torch.testing.assert_close(layer.base.weight, weight)
    assert torch.equal(layer.A0, -A0)
    restore_start(layer, 2 * layer.A0, layer.B0)
    assert (layer.base.weight - weight).abs().max() > 1e-3
    torch.testing.assert_close(layer.base.weight, weight - (layer.B0 * layer.scaling.sum(0) / 2) @ layer.A0 / 2)


def test_every_mixture_of_a_model_that_starts_from_its_weights_is_found(tiny_llama):
    plan = uniform(tiny_llama, "6000", max_experts=2)
    names = {site.name for site in plan.sites}
    assert offset_mixtures(apply_plan(models.build("llama"), plan, MixtureSettings(init="svd"))).keys() == names
    assert offset_mixtures(apply_plan(models.build("llama"), plan)) == {}
