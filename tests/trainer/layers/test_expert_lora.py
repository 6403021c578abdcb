"""LoRA on the fused experts of mixture-of-experts models, against a loop and from plan to merged model."""

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import planner
import spectra
from planner.modules.fused_experts import expert_weight, fused_parts, is_experts
from spectra import InputError, open_checkpoint
from tests.reference.expert_lora import reference_experts
from trainer import TrainSettings, apply_plan, evaluate, load_adapters, merge, train
from trainer.adapters.merge import merged
from trainer.layers.expert_lora import ExpertLora, NAME, ExpertLora, _has_kernel, adapt, draw_uniform, expert_loras, fold, grouped, padded_rank
from trainer.layers.inject import trainable_parameters

def make(family, dtype=torch.float32):
    return models.without_zeros(models.build(family)).to(dtype)


def experts_of(model):
    return next(module for module in model.modules() if is_experts(module))


def matrices(experts):
    """Per expert, projection -> (weight, bias), as autograd constants."""
    found = []
    for expert in range(len(experts.down_proj)):
        entry = {}
        for tensor, parts in fused_parts(experts).items():
            bias = getattr(experts, f"{tensor}_bias")[expert].detach() if experts.has_bias else None
            for part, outputs in parts.items():
                weight = expert_weight(experts, expert, tensor, outputs).detach()
                entry[part] = (weight, None if bias is None else bias[outputs])
        found.append(entry)
    return found


def activation(experts):
    def join(gate, up):
        both = torch.cat([gate, up]) if experts.is_concatenated else torch.stack([gate, up], dim=-1).flatten()
        return experts._apply_gate(both[None])[0]

    return join


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(models.MOE_FAMILIES), st.integers(1, 9), st.data())
def test_values_and_gradients_equal_the_loop(family, tokens, data):
    experts = experts_of(make(family, torch.float64))
    ranks = {
        part: data.draw(st.lists(st.integers(0, 5), min_size=4, max_size=4)) for part in ("gate_proj", "up_proj", "down_proj")
    }
    if not any(map(any, ranks.values())):
        ranks["up_proj"][1] = 2
    ranks = {part: given_ranks for part, given_ranks in ranks.items() if any(given_ranks)}
    torch.manual_seed(data.draw(st.integers(0, 99)))
    lora = ExpertLora(experts, ranks, lora_alpha=3.0)
    for part, given_ranks in ranks.items():
        for expert, rank in enumerate(given_ranks):
            torch.nn.init.normal_(lora.B[part].data[expert, :, :rank])
    adapt(experts, lora)
    hidden = torch.randn(tokens, 32, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)])
    weights = torch.rand(tokens, 2, dtype=torch.float64, requires_grad=True)
    leaves = [
        {
            part: (
                lora.A[part][expert, :rank].detach().clone().requires_grad_(),
                lora.B[part][expert, :, :rank].detach().clone().requires_grad_(),
                float(lora.scaling(part)[expert]),
            )
            for part, given_ranks in ranks.items()
            if (rank := given_ranks[expert])
        }
        for expert in range(4)
    ]
    theirs_hidden, theirs_weights = (value.detach().clone().requires_grad_() for value in (hidden, weights))
    ours = experts(hidden, index, weights)
    theirs = reference_experts(theirs_hidden, index, theirs_weights, matrices(experts), activation(experts), leaves)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(ours, theirs, **close)
    direction = torch.randn_like(ours)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    torch.testing.assert_close(hidden.grad, theirs_hidden.grad, **close)
    torch.testing.assert_close(weights.grad, theirs_weights.grad, **close)
    for expert, parts in enumerate(leaves):
        for part, (A, B, _) in parts.items():
            rank = len(A)
            for mine, other in ((lora.A[part].grad[expert, :rank], A.grad), (lora.B[part].grad[expert, :, :rank], B.grad)):
                torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, **close)
            assert lora.A[part].grad[expert, rank:].abs().sum() == 0
            assert lora.B[part].grad[expert, :, rank:].abs().sum() == 0


def test_grouped_products_equal_the_loop_in_single_precision():
    torch.manual_seed(0)
    x, weight = torch.randn(20, 16, requires_grad=True), torch.randn(5, 16, 8, requires_grad=True)
    offsets = torch.tensor([3, 3, 10, 19, 20], dtype=torch.int32)
    y = grouped(x, weight, offsets)
    expected = grouped(x.double(), weight.double(), offsets)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(y)
    ours = torch.autograd.grad((y * direction).sum(), (x, weight))
    theirs = torch.autograd.grad((expected * direction).sum(), (x, weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_padding_stays_zero_through_the_optimiser():
    experts = experts_of(make("olmoe"))
    lora = ExpertLora(experts, {"up_proj": [1, 3, 8, 0], "down_proj": [12, 5, 2, 9]}, lora_alpha=4.0)
    adapt(experts, lora)
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(30):
        hidden = torch.randn(16, 32)
        index = torch.stack([torch.randperm(4)[:2] for _ in range(16)])
        experts(hidden, index, torch.rand(16, 2)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert {part: tuple(lora.A[part].shape) for part in lora.A} == {"up_proj": (4, 8, 32), "down_proj": (4, 16, 24)}
    for part, ranks in lora.ranks.items():
        for expert, rank in enumerate(ranks):
            assert lora.A[part][expert, rank:].abs().sum() == 0
            assert lora.B[part][expert, :, rank:].abs().sum() == 0
            assert (lora.B[part][expert, :, :rank].abs().amax(0) > 0).all()  # while every real column has moved


def test_merging_in_memory_removes_every_trace():
    model = make("gpt-oss")
    names = dict(model.named_parameters()).keys()
    experts = experts_of(model)
    lora = ExpertLora(experts, {"gate_proj": [2, 0, 1, 3]}, lora_alpha=1.0)
    for expert, rank in enumerate(lora.ranks["gate_proj"]):
        torch.nn.init.normal_(lora.B["gate_proj"].data[expert, :, :rank])
    adapt(experts, lora)
    before = logits(model)
    torch.testing.assert_close(logits(merged(model)), before, rtol=1e-4, atol=1e-5)
    assert dict(model.named_parameters()).keys() == names
    assert expert_loras(model) == {}


def test_impossible_ranks_are_refused():
    experts = experts_of(make("olmoe"))
    with pytest.raises(InputError, match="3 ranks for up_proj, but the layer has 4 experts of gate_proj, up_proj, down_proj"):
        ExpertLora(experts, {"up_proj": [1, 1, 1]}, lora_alpha=1.0)
    with pytest.raises(InputError, match="4 ranks for k_proj"):
        ExpertLora(experts, {"k_proj": [1, 1, 1, 1]}, lora_alpha=1.0)


def test_a_gpu_without_the_kernel_is_told_and_gets_the_loop(monkeypatch):
    """The answer of a Volta's driver, taken down; the loop itself is compared with the reference above."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.warns(UserWarning, match="Tesla V100 has no grouped products: experts run one by one, slowly"):
        assert not _has_kernel(torch.device("cuda"))
    assert _has_kernel(torch.device("cpu"))
