"""LoRA on the fused experts of mixture-of-experts models, against a loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.modules.fused_experts import expert_weight, fused_parts, is_experts
from spectra import InputError
from tests import models
from tests.reference.expert_lora import reference_experts
from tests.trainer.examples import logits
from trainer import MixtureSettings
from trainer.layers.expert_lora import (
    NAME,
    ExpertLora,
    _has_kernel,
    adapt,
    expert_loras,
    fold,
    grouped,
    padded_rank,
)
from trainer.layers.router_state import RouterState


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


def random_lora(experts, ranks, **options):
    lora = ExpertLora(experts, ranks, lora_alpha=2.0, **options)
    for part, given_ranks in ranks.items():
        for expert, rank in enumerate(given_ranks):
            torch.nn.init.normal_(lora.B[part].data[expert, :, :rank])
    return lora


@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_folding_adds_the_adapters_to_the_weights_and_removes_every_trace(family):
    model = make(family)
    names, implementation = dict(model.named_parameters()).keys(), model.config._experts_implementation
    experts = experts_of(model)
    before = {part: expert_weight(experts, 3, *place).clone() for part, place in places(experts).items()}
    lora = random_lora(experts, {"gate_proj": [2, 0, 1, 3], "down_proj": [0, 4, 0, 1]})
    adapt(experts, lora)
    adapted = logits(model)
    fold(experts)
    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-5)
    assert dict(model.named_parameters()).keys() == names
    assert expert_loras(model) == {}
    assert model.config._experts_implementation == implementation
    for part, place in places(experts).items():
        added = lora.delta_weight(part, 3) if part in lora.ranks else 0
        torch.testing.assert_close(expert_weight(experts, 3, *place), (before[part] + added).float())


def places(experts):
    """Projection -> the stored tensor and which of its outputs it is."""
    return {part: (tensor, outputs) for tensor, parts in fused_parts(experts).items() for part, outputs in parts.items()}


def test_what_one_expert_adds_has_its_rank_and_scale():
    lora = random_lora(experts_of(make("olmoe")), {"up_proj": [1, 0, 3, 2]})
    assert lora.scaling("up_proj").tolist() == pytest.approx([2.0, 0.0, 2 / 3, 1.0])
    delta = lora.delta_weight("up_proj", 2)
    assert (tuple(delta.shape), delta.dtype) == ((24, 32), torch.float64)
    assert torch.linalg.matrix_rank(delta) == 3
    expected = 2 / 3 * lora.B["up_proj"][2, :, :3] @ lora.A["up_proj"][2, :3]
    torch.testing.assert_close(delta.float(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_the_unpadded_tensors_come_back():
    experts = experts_of(make("olmoe"))
    ranks = {"up_proj": [1, 0, 3, 2], "down_proj": [4, 9, 0, 0]}
    lora, other = random_lora(experts, ranks), ExpertLora(experts, ranks, lora_alpha=2.0)
    stored = lora.unpadded()
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert shapes == {"up_proj.A": (6, 32), "up_proj.B": (24, 6), "down_proj.A": (13, 24), "down_proj.B": (32, 13)}
    assert lora.parameters_planned == sum(tensor.numel() for tensor in stored.values())
    other.load_unpadded(stored)
    assert all(torch.equal(one, two) for one, two in zip(lora.parameters(), other.parameters(), strict=True))


def test_projections_without_rank_have_no_adapter():
    lora = ExpertLora(experts_of(make("olmoe")), {"up_proj": [0] * 4, "gate_proj": [0, 0, 0, 1]}, lora_alpha=1.0)
    assert (list(lora.ranks), list(lora.A)) == (["gate_proj"], ["gate_proj"])
    assert "gate_proj: 1 ranks, 1 at most" in repr(lora)


def test_new_adapters_are_drawn_as_loras_are():
    torch.manual_seed(0)
    lora = ExpertLora(experts_of(make("olmoe")), {"up_proj": [8, 8, 8, 8]}, lora_alpha=1.0)
    assert 0.9 / math.sqrt(32) < lora.A["up_proj"].abs().max() <= 1 / math.sqrt(32)
    assert not lora.B["up_proj"].any()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4), st.lists(st.integers(0, 9), min_size=4, max_size=4), st.booleans())
def test_of_one_seed_an_experts_first_rows_are_the_same_whatever_else_is_adapted(one, other, alone):
    experts = experts_of(make("olmoe"))
    beside = {} if alone else {"gate_proj": [1, 9, 3, 2], "down_proj": [4, 4, 4, 4]}
    few, many = (
        ExpertLora(experts, ranks, lora_alpha=1.0, name="layer", seed=5)
        for ranks in ({"up_proj": [*one[:3], 1]}, beside | {"up_proj": [*other[:3], 2]})
    )
    for expert, ranks in enumerate(zip(few.ranks["up_proj"], many.ranks["up_proj"], strict=True)):
        assert torch.equal(few.A["up_proj"][expert, : min(ranks)], many.A["up_proj"][expert, : min(ranks)])
        assert few.A["up_proj"][expert].any(1).sum() == ranks[0]  # and padding is zero


def test_seeds_names_experts_and_projections_draw_numbers_of_their_own():
    experts = experts_of(make("olmoe"))
    ranks = {"up_proj": [2] * 4, "gate_proj": [2] * 4}
    lora, other, elsewhere = (
        ExpertLora(experts, ranks, lora_alpha=1.0, name=name, seed=seed) for name, seed in [("a", 5), ("a", 6), ("b", 5)]
    )
    drawn = [one.A[part][expert, 0] for one in (lora, other, elsewhere) for part in ranks for expert in range(4)]
    assert len({tuple(row.tolist()) for row in drawn}) == 3 * 2 * 4
    again = torch.cat([lora.A[part].flatten() for part in ranks])
    torch.nn.init.normal_(lora.B["up_proj"])
    lora.reset_parameters(5)
    assert torch.equal(torch.cat([lora.A[part].flatten() for part in ranks]), again)
    assert not lora.B["up_proj"].any()


def test_ranks_are_padded_to_a_multiple_of_eight():
    assert [padded_rank(rank) for rank in (1, 8, 9, 16)] == [8, 8, 16, 16]


def test_half_precision_experts_keep_adapters_in_float32():
    experts = experts_of(make("olmoe", torch.bfloat16))
    adapt(experts, lora := random_lora(experts, {"up_proj": [2] * 4}))
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float32}
    hidden = torch.randn(6, 32, dtype=torch.bfloat16)
    index, weights = torch.tensor([[0, 1]] * 6), torch.rand(6, 2, dtype=torch.bfloat16)
    assert experts(hidden, index, weights).dtype == torch.bfloat16


def test_usage_is_counted_in_training_when_it_is_asked_for_and_padding_left_out():
    experts, state = experts_of(make("olmoe")), RouterState(MixtureSettings())
    adapt(experts, random_lora(experts, {"up_proj": [2] * 4}, state=state, name="layer"))
    index = torch.stack([torch.randperm(4)[:2] for _ in range(6)])
    weights, mask = torch.rand(6, 2), torch.tensor([[1, 1, 0], [1, 0, 0]])
    state.begin(None, (), {"attention_mask": mask})
    experts.train()(torch.randn(6, 32), index, weights)
    assert state.take_usage("layer") is None
    state.counting = True
    experts.eval()(torch.randn(6, 32), index, weights)
    assert state.take_usage("layer") is None
    experts.train()(torch.randn(6, 32), index, weights)
    kept = weights * mask.reshape(-1, 1)
    torch.testing.assert_close(state.take_usage("layer"), torch.stack([kept[index == expert].sum() for expert in range(4)]))


def test_adapters_are_found_by_name():
    model = make("olmoe")
    experts = experts_of(model)
    adapt(experts, lora := random_lora(experts, {"up_proj": [2] * 4}))
    assert expert_loras(model) == {f"model.layers.0.mlp.experts.{NAME}": lora}


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


@pytest.mark.gpu
@pytest.mark.parametrize("family", models.MOE_FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_agrees_with_the_cpu(family, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = []
    hidden, index = torch.randn(37, 32), torch.stack([torch.randperm(4)[:2] for _ in range(37)])
    shares = torch.rand(37, 2)
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        # On the CPU in double precision, of the very weights that the GPU holds.
        experts = experts_of(make(family, dtype)).to(device, torch.float64 if device == "cpu" else dtype)
        lora = ExpertLora(experts, {"gate_proj": [4, 0, 2, 3], "down_proj": [1, 5, 2, 3]}, lora_alpha=3.0)
        torch.manual_seed(1)
        for part, ranks in (("gate_proj", [4, 0, 2, 3]), ("down_proj", [1, 5, 2, 3])):
            for expert, rank in enumerate(ranks):
                for factor in (lora.A[part].data[expert, :rank], lora.B[part].data[expert, :, :rank]):
                    factor.copy_((torch.randn(factor.shape) / 8).to(dtype))
        adapt(experts, lora)
        of = {"device": device, "dtype": experts.down_proj.dtype}
        given = hidden.to(dtype).to(**of).requires_grad_()
        y = experts(given, index.to(device), shares.to(dtype).to(**of))
        y.double().square().sum().backward()
        found.append([y, given.grad, *(factors[part].grad for factors in (lora.A, lora.B) for part in lora.A)])
    for ours, theirs in zip(*found, strict=True):
        # A tolerance of the whole tensor: rounding in bf16 is relative to what was added up.
        error = torch.linalg.norm(theirs.cpu().double() - ours.double()) / torch.linalg.norm(ours.double())
        assert error < (1e-4 if dtype == torch.float32 else 3e-2), float(error)
