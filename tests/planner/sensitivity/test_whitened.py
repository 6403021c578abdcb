"""The whitened gradient's effective rank. Whole models are compared with plain autograd in test_probe.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from planner.sensitivity.whitened import WhitenedGradients, effective_rank
from tests.reference.effective_rank import reference_effective_rank


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-6, 1.0, 1e4]), st.integers(0, 999))
def test_equals_the_reference_whatever_the_shapes_and_scales(tokens, d_in, d_out, scale, seed):
    x, d = normal(tokens, d_in, seed=seed), normal(tokens, d_out, seed=seed + 1)
    gradient, covariance = d.mT @ x, x.mT @ x
    found = effective_rank(scale * gradient, covariance / scale)
    assert found == pytest.approx(reference_effective_rank(gradient.numpy(), covariance.numpy()), rel=1e-8)
    assert 1 - 1e-9 <= found <= min(tokens, d_in, d_out) + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_gradients_need_not_lie_among_the_inputs(d_in, d_out, seed):
    gradient, x = normal(d_out, d_in, seed=seed), normal(2, d_in, seed=seed + 1)  # fewer inputs than dimensions
    expected = reference_effective_rank(gradient.numpy(), (x.mT @ x).numpy())
    assert effective_rank(gradient, x.mT @ x) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("gradient", "variances", "expected"),
    [
        ([[1.0, 2.0], [2.0, 4.0]], [1.0, 1.0], 1.0),
        ([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]], [1.0, 1.0], 2.0),
        ([[2.0, 0.0], [0.0, 1.0]], [1.0, 1.0], 0.8**-0.8 * 0.2**-0.2),
        ([[2.0, 0.0], [0.0, 1.0]], [4.0, 1.0], 2.0),  # even, once the inputs' own variance is taken out
        ([[2.0, 0.0], [0.0, 2.0]], [4.0, 1.0], 0.8**-0.8 * 0.2**-0.2),
    ],
)
def test_values_that_are_known(gradient, variances, expected):
    assert effective_rank(torch.tensor(gradient), torch.diag(torch.tensor(variances))) == pytest.approx(expected, rel=2e-3)


def test_inputs_that_hardly_vary_count_no_more_than_the_ridge_lets_them():
    found = effective_rank(torch.tensor([[1.0, 0.0], [0.0, 1e-6]]), torch.diag(torch.tensor([1.0, 1e-12])))
    assert found == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("gradient", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_a_gradient_without_directions_has_no_rank(gradient, variance):
    assert math.isnan(effective_rank(torch.full((2, 3), gradient), variance * torch.eye(3)))
    assert math.isnan(effective_rank(torch.ones(2, 3), torch.full((3, 3), math.inf)))


def gathered(layer, batches):
    """The effective rank after backward passes: (inputs, gradients of the outputs, mask), a batch each."""
    whitened = WhitenedGradients({"layer": layer})
    with whitened.watching():
        for x, d, mask in batches:
            whitened.begin(mask)
            (layer(x.clone().requires_grad_()) * d).sum().backward()
    return whitened.effective_ranks()


MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])


def batch(mask=MASK):
    """Four examples of three tokens; padding has inputs, and no gradient."""
    x, d = normal(4, 3, 6), normal(4, 3, 5, seed=1)
    return x, d * mask[..., None]


@pytest.mark.parametrize("parts", [[slice(0, 4)], [slice(0, 1), slice(1, 4)]])
def test_sums_run_over_batches_and_padding_is_no_input(parts):
    x, d = batch()
    layer = nn.Linear(6, 5).double().requires_grad_(False)
    found = gathered(layer, [(x[part], d[part], MASK[part]) for part in parts])
    real = x[MASK.bool()]
    gradient, covariance = torch.einsum("eto,eti->oi", d, x), torch.einsum("ti,tj->ij", real, real)
    assert found == {"layer": pytest.approx(reference_effective_rank(gradient.numpy(), covariance.numpy()), rel=1e-5)}
    assert found["layer"] != pytest.approx(gathered(layer, [(x, d, None)])["layer"], rel=1e-3)


@pytest.mark.parametrize("mask", [None, torch.ones(4, 7), torch.ones(4, 1, 3, 3)])
def test_without_a_mask_of_these_tokens_all_of_them_count(mask):
    x, d = batch(torch.ones(4, 3))
    found = gathered(nn.Linear(6, 5).double().requires_grad_(False), [(x, d, mask)])
    gradient, covariance = torch.einsum("eto,eti->oi", d, x), torch.einsum("eti,etj->ij", x, x)
    assert found["layer"] == pytest.approx(reference_effective_rank(gradient.numpy(), covariance.numpy()), rel=1e-5)


def test_half_precision_is_summed_in_single():
    x, d = (part.bfloat16() for part in batch())
    found = gathered(nn.Linear(6, 5).bfloat16().requires_grad_(False), [(x, d, MASK)] * 300)
    once = gathered(nn.Linear(6, 5).bfloat16().requires_grad_(False), [(x, d, MASK)])
    np.testing.assert_allclose(found["layer"], once["layer"], rtol=1e-4)


def test_nothing_is_left_on_the_modules():
    layer = nn.Linear(2, 2)
    with WhitenedGradients({"layer": layer}).watching():
        assert layer._forward_hooks
    assert not layer._forward_hooks
    with pytest.raises(KeyError), WhitenedGradients({"layer": layer}).watching():
        raise KeyError
    assert not layer._forward_hooks


def test_a_module_that_no_gradient_reached_has_no_rank():
    assert gathered(nn.Linear(2, 2), []) == {}
