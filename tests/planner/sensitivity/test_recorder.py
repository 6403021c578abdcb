"""What is seen of a backward pass. Whole models are compared with plain autograd in test_probe.py."""

import pytest
import torch
from torch import nn

from planner.modules.fused_experts import is_experts
from planner.sensitivity.recorder import Recorder
from planner.sensitivity.statistics import EVERY, gradient_statistics
from tests import models


def backward(layer, x, direction):
    (layer(x.requires_grad_()) * direction).sum().backward()


def test_every_fourth_example_is_taken_in_full_across_batches():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3).double()
    layer.requires_grad_(False)
    x, d = torch.randn(7, 6, 5).double(), torch.randn(7, 6, 3).double()
    recorder = Recorder({"layer": layer}, {})
    with recorder.watching():
        for part in (slice(0, 3), slice(3, 7)):
            recorder.begin(len(x[part]), None)
            backward(layer, x[part].clone(), d[part])
    found = recorder.per_example("layer")
    expected = torch.stack([gradient_statistics(*example, layer.weight) for example in zip(x, d, strict=True)])
    torch.testing.assert_close(found[:, 0], expected[:, 0])
    torch.testing.assert_close(found[::EVERY], expected[::EVERY])
    assert torch.isnan(found[:, 1]).tolist() == [False, True, True, True, False, True, True]


def test_nothing_is_left_on_the_modules():
    layer = nn.Linear(2, 2)
    experts = next(module for module in models.build("olmoe").modules() if is_experts(module))
    recorder = Recorder({"layer": layer}, {"experts": experts})
    with recorder.watching():
        assert layer._forward_hooks
        assert "forward" in vars(experts)
    assert not layer._forward_hooks
    assert "forward" not in vars(experts)
    with pytest.raises(KeyError), recorder.watching():
        raise KeyError
    assert not layer._forward_hooks
    assert "forward" not in vars(experts)


def test_experts_are_counted_over_real_tokens_and_unused_ones_have_no_gradient():
    experts = next(module for module in models.build("olmoe").double().modules() if is_experts(module))
    experts.requires_grad_(False)
    hidden = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)  # two examples of two tokens, the last is padding
    index = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 0]])
    weights = torch.tensor([[0.5, 0.25], [1.0, 0.5], [0.75, 0.25], [9.0, 9.0]], dtype=torch.float64)
    recorder = Recorder({}, {"experts": experts})
    with recorder.watching():
        recorder.begin(2, torch.tensor([[1, 1], [1, 0]]))
        experts(hidden, index, weights)[:3].sum().backward()
    shares, means, of_all = recorder.usage("experts")
    assert torch.equal(shares, of_all)  # nobody said which tokens are learned
    assert shares.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert means[:3].tolist() == [0.75, 0.5, 0.375]
    assert torch.isnan(means[3])
    assert (recorder.per_example("experts.0.up_proj")[:, 0] > 0).tolist() == [True, False]
    assert recorder.per_example("experts.2.up_proj")[:, 0].min() > 0
    assert recorder.per_example("experts.3.up_proj")[:, 0].tolist() == [0.0, 0.0]


def test_shares_are_counted_at_learned_tokens_and_over_all_beside_it():
    experts = next(module for module in models.build("olmoe").modules() if is_experts(module)).requires_grad_(False)
    hidden = torch.randn(4, 32, requires_grad=True)
    index = torch.tensor([[0, 1], [0, 2], [1, 2], [3, 0]])
    weights = torch.tensor([[0.5, 0.25], [1.0, 0.5], [0.75, 0.25], [9.0, 9.0]])
    recorder = Recorder({}, {"experts": experts})
    with recorder.watching():
        recorder.begin(2, torch.tensor([[1, 1], [1, 0]]), torch.tensor([[False, True], [False, False]]))
        experts(hidden, index, weights).sum().backward()
    shares, means, of_all = recorder.usage("experts")
    assert shares.tolist() == [1, 0, 1, 0]
    assert means[[0, 2]].tolist() == [1.0, 0.5]
    assert of_all.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])


def test_a_forward_that_somebody_else_put_on_experts_is_put_back():
    experts = next(module for module in models.build("olmoe").modules() if is_experts(module))
    theirs = experts.forward = lambda *inputs: None  # as accelerate does to move weights between devices
    with Recorder({}, {"experts": experts}).watching():
        assert experts.forward is not theirs
    assert experts.forward is theirs
