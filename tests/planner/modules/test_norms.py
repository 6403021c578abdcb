"""RMSNorm by few kernels, against its formula in double precision and against the models' own."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.modules.norms import RMSNorm, use_fused_norms
from tests import models


def formula(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@settings(deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(2, 80), seed=st.integers(0, 99), dtype=st.sampled_from(["bfloat16", "float16"]))
def test_values_and_gradients_are_those_of_the_formula(rows, width, seed, dtype):
    torch.manual_seed(seed)
    x, weight, d = (torch.randn(size).to(getattr(torch, dtype)) for size in [(rows, width), (width,), (rows, width)])
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    found, expected = RMSNorm.apply(ours, weight, 1e-5), formula(exact, weight.double(), 1e-5)
    found.backward(d)
    expected.backward(d.double())
    assert error(found, expected.detach()) < 0.01  # bf16 keeps eight bits
    # A gradient is a difference: its error is one of its terms', which narrow rows may cancel almost wholly.
    terms = (exact.detach().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double() * d.double()
    assert (ours.grad.double() - exact.grad).norm() < 0.02 * terms.norm()


def test_its_gradient_is_as_exact_as_the_operators():
    torch.manual_seed(0)
    x, weight, d = (torch.randn(size).bfloat16() for size in [(64, 576), (576,), (64, 576)])
    exact = x.double().requires_grad_()
    formula(exact, weight.double(), 1e-5).backward(d.double())
    ours, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    RMSNorm.apply(ours, weight, 1e-5).backward(d)
    (weight * formula(plain.float(), 1, 1e-5).bfloat16()).backward(d)
    assert error(ours.grad, exact.grad) < 1.1 * error(plain.grad, exact.grad)


@pytest.mark.parametrize(("family", "fused"), [("llama", True), ("olmoe", True), ("gemma2", False), ("gpt2", False)])
def test_only_norms_of_this_formula_are_taken(family, fused):
    model = models.build(family).bfloat16().requires_grad_(False).eval()
    before = copy.deepcopy(model)
    use_fused_norms(model)
    taken = [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert bool(taken) == fused
    assert all("norm" in name for name in taken)
    ids = torch.arange(3, 15)[None]
    found, expected = (one(inputs_embeds=one.get_input_embeddings()(ids).requires_grad_()).logits for one in (model, before))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_single_precision_is_left_alone():
    model = models.build("llama")
    use_fused_norms(model)
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_a_copy_of_the_model_uses_its_own_weights():
    model = models.build("llama").bfloat16()
    use_fused_norms(model)
    other = copy.deepcopy(model)
    assert other.model.norm.forward.__self__ is other.model.norm


def untouched(model, monkeypatch):
    """The first norm of a model whose fused form must not be used."""
    use_fused_norms(model)
    monkeypatch.setattr(RMSNorm, "apply", None)
    return model.model.norm


def test_a_norm_that_learns_gets_its_gradient(monkeypatch):
    norm = untouched(models.build("llama").bfloat16(), monkeypatch)
    norm(torch.randn(3, len(norm.weight)).bfloat16().requires_grad_()).sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float32), ("meta", torch.bfloat16)])
def test_on_another_device_or_in_another_precision_the_model_computes_it(device, dtype, monkeypatch):
    norm = untouched(models.build("llama").bfloat16().requires_grad_(False), monkeypatch).to(device)
    x = torch.empty(3, len(norm.weight), device=device, dtype=dtype, requires_grad=True)
    assert norm(x).shape == x.shape
