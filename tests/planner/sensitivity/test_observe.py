"""The identity that hands over what a module saw and what pulled on it."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from planner.sensitivity.observe import Observe


@pytest.fixture
def seen():
    return []


def observed(x, seen):
    return Observe.apply(2 * x, x.detach(), lambda inputs, gradients: seen.append((inputs, gradients)))


def test_observing_changes_neither_values_nor_gradients(seen):
    x, direction = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    output = observed(x, seen)
    assert torch.equal(output, 2 * x)
    (output * direction).sum().backward()
    assert torch.equal(x.grad, 2 * direction)
    ((inputs, gradients),) = seen
    assert torch.equal(inputs, x)
    assert torch.equal(gradients, direction)


def test_nothing_is_handed_over_before_the_backward_pass_or_without_one(seen):
    x = torch.randn(3, 4, requires_grad=True)
    observed(x, seen)
    with torch.no_grad():
        assert not observed(x, seen).requires_grad
    assert seen == []


def test_two_observers_of_one_output_see_the_same(seen):
    x = torch.randn(3, 4, requires_grad=True)
    Observe.apply(observed(x, seen), x.detach(), lambda inputs, gradients: seen.append((inputs, gradients))).sum().backward()
    one, other = seen
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))


def test_inputs_are_dropped_and_computed_again_under_gradient_checkpointing(seen):
    x, kept = torch.randn(3, 4, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)), lambda _: None):
        observed(x, seen)
    assert kept == [(3, 4)]
    checkpoint(lambda value: observed(value.sin(), seen), x, use_reentrant=False).sum().backward()
    ((inputs, gradients),) = seen
    assert torch.equal(inputs, x.sin())
    assert torch.equal(gradients, torch.ones(3, 4))
