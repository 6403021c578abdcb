"""The layouts of routed experts: each matrix is the one that the live model multiplies with."""

import pytest
import torch
from torch import nn

from planner.modules.fused_experts import expert_sites, expert_weight, fused_parts, is_experts, run_experts
from tests import models


def experts_of(family):
    model = models.without_zeros(models.build(family, options={"experts_implementation": "eager"}))
    return next(module for module in model.double().modules() if is_experts(module))


@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_experts_are_found_and_nothing_else(family):
    model = models.build(family)
    found = [name for name, module in model.named_modules() if is_experts(module)]
    first = 1 if family.startswith("deepseek") else 0  # whose first layer is dense
    assert found == [f"model.layers.{layer}.mlp.experts" for layer in range(first, 2)]


def test_a_dense_mlp_is_none():
    assert not any(map(is_experts, models.build("llama").modules()))
    assert not is_experts(nn.Linear(2, 2))


@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_sites_are_named_and_shaped_as_per_expert_checkpoints_have_them(family):
    inner = 24 if family in ("olmoe", "mixtral", "gpt-oss") else 12
    assert expert_sites(experts_of(family)) == {
        f"{expert}.{part}": (32, inner) if part == "down_proj" else (inner, 32)
        for expert in range(4)
        for part in ("down_proj", "gate_proj", "up_proj")
    }


def test_where_gate_and_up_lie_in_the_fused_tensor():
    assert fused_parts(experts_of("olmoe")) == {
        "gate_up_proj": {"gate_proj": slice(0, 24), "up_proj": slice(24, 48)}, "down_proj": {"down_proj": slice(None)}
    }  # fmt: skip
    interleaved = fused_parts(experts_of("gpt-oss"))["gate_up_proj"]
    assert interleaved == {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}


def test_a_transposed_matrix_is_turned_and_cut():
    experts = experts_of("gpt-oss")
    found = expert_weight(experts, 2, "gate_up_proj", slice(1, None, 2))
    assert torch.equal(found, experts.gate_up_proj[2][:, 1::2].T)


@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_running_expert_by_expert_is_what_the_module_computes(family):
    experts, generator = experts_of(family), torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 32, generator=generator, dtype=torch.float64)
    index = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(9)])
    weights = torch.rand(9, 2, generator=generator, dtype=torch.float64)
    shown = []

    def watch(expert, tensor, token, inputs, outputs):
        shown.append((expert, tensor, token.tolist(), inputs.shape, outputs.shape))
        return outputs

    torch.testing.assert_close(run_experts(experts, hidden, index, weights, watch), experts(hidden, index, weights))
    inner = experts.down_proj.shape[1 if experts.is_transposed else 2]
    for expert in range(4):
        tokens = torch.where(index == expert)[0].tolist()
        assert (expert, "gate_up_proj", tokens, (len(tokens), 32), (len(tokens), 2 * inner)) in shown
        assert (expert, "down_proj", tokens, (len(tokens), inner), (len(tokens), 32)) in shown


def test_a_watcher_may_replace_what_a_projection_returns():
    experts = experts_of("olmoe")
    hidden, index, weights = torch.randn(3, 32).double(), torch.tensor([[0], [1], [0]]), torch.ones(3, 1).double()
    found = run_experts(experts, hidden, index, weights, lambda expert, tensor, _token, _x, y: 0 * y if expert == 0 else y)
    assert found[[0, 2]].abs().max() == 0
    torch.testing.assert_close(found[1], experts(hidden, index, weights)[1])


def test_tokens_of_other_processes_experts_are_left_out():
    experts = experts_of("olmoe")
    hidden, weights = torch.randn(2, 32).double(), torch.ones(2, 1).double()
    found = run_experts(experts, hidden, torch.tensor([[4], [1]]), weights, lambda _e, _t, _token, _x, y: y)
    assert found[0].abs().max() == 0
    assert found[1].abs().max() > 0
