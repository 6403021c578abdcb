"""Every router x experts per token x padding x `sira`'s settings, through a whole layer, beside a loop over tokens and experts.

Compared are outputs, what is turned away, the balance loss, and the gradient of the router's weights.
"""

import itertools

import pytest
import torch
from torch import nn

from tests.reference.routers import reference_balance, reference_gates
from trainer import MixtureSettings
from trainer.layers.mixture import MixtureLinear
from trainer.layers.router_state import RouterState
from trainer.routers import ROUTERS

EXPERTS, RANKS, BATCH, TOKENS, WIDE = 4, (2, 1, 3, 2), 3, 5, 6
OF_SIRA = [
    {"capacity": capacity, "expert_dropout": dropout, "renormalise": renormalise}
    for capacity, dropout, renormalise in itertools.product((0.4, 1.25), (0.0, 0.3), (False, True))
]
CASES = [
    (name, top_k, padded, own)
    for name in ROUTERS
    for top_k in (1, 2, EXPERTS)
    for padded in (False, True)
    for own in (OF_SIRA if name == "sira" else [{}])
]


def layer_of(name, top_k, own):
    torch.manual_seed(3)
    state = RouterState(MixtureSettings(router={"name": name, "settings": own}, balance_loss=1.0))
    base = nn.Linear(WIDE, 4).double()
    layer = MixtureLinear(base, RANKS, top_k, [0.5, 1.0, 2.0, 1.5], state=state, site="layer").double().train()
    with torch.no_grad():
        layer.B.normal_()
        layer.router.normal_()
    return layer, state


def numbers(rows):
    return [[value.item() if isinstance(value, torch.Tensor) else value for value in row] for row in rows]


@pytest.mark.parametrize(("name", "top_k", "padded", "own"), CASES)
def test_a_whole_layer_equals_the_loop_over_tokens_and_experts(name, top_k, padded, own):
    layer, state = layer_of(name, top_k, own)
    x = torch.randn(BATCH, TOKENS, WIDE, dtype=torch.float64)
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    if padded:
        mask[0, 3:] = mask[2, 4:] = 0
    pull = torch.randn(BATCH * TOKENS, 4, dtype=torch.float64) * mask.reshape(-1, 1)
    state.recording = True
    state.begin(None, (), {"attention_mask": mask if padded else None})
    drawn = torch.get_rng_state()
    y = layer(x).reshape(-1, 4)
    extra = state.loss()
    ((y * pull).sum() + extra).backward()
    health = state.health()[0]

    torch.set_rng_state(drawn)
    closed = None
    if name == "sira":
        closed = (torch.rand(BATCH * TOKENS, EXPERTS, dtype=torch.float64) < own["expert_dropout"]).tolist()
    flat, router = x.reshape(-1, WIDE), layer.router.detach().clone().requires_grad_()
    real = mask.flatten().tolist()
    logits = flat @ router.T
    gates, picks = reference_gates(
        name, logits, top_k, real, capacity=own.get("capacity"), closed=closed, renormalise=own.get("renormalise", False)
    )
    starts = [sum(RANKS[:expert]) for expert in range(EXPERTS)]
    expected = []
    for token, row in enumerate(gates):
        out = layer.base(flat[token])
        for expert, gate in enumerate(row):
            part = slice(starts[expert], starts[expert] + RANKS[expert])
            out = out + gate * layer.scalings[expert] * (layer.B[:, part] @ (layer.A[part] @ flat[token]))
        expected.append(out.detach() if not out.requires_grad else out)
    kept = mask.flatten().bool()
    torch.testing.assert_close(y[kept], torch.stack(expected)[kept], rtol=1e-9, atol=1e-9)
    # The balance loss counts picks without a gradient, and pulls through the mean probabilities.
    balance = reference_balance(logits.softmax(-1), numbers(picks), real)
    assert extra.item() == pytest.approx(balance.item(), rel=1e-9)
    ((torch.stack(expected) * pull).sum() + balance).backward()
    torch.testing.assert_close(layer.router.grad, router.grad, rtol=1e-6, atol=1e-9)
    assert layer.router.grad.abs().sum() > 0

    wanted = [pick > 0 for row, one in zip(numbers(picks), real, strict=True) if one for pick in row]
    got = [gate > 0 for row, one in zip(numbers(gates), real, strict=True) if one for gate in row]
    assert health.dropped == pytest.approx((sum(wanted) - sum(got)) / sum(wanted))
    served = [any(gate > 0 for gate in row) for row, one in zip(numbers(gates), real, strict=True) if one]
    assert health.unserved == pytest.approx(1 - sum(served) / len(served))


@pytest.mark.parametrize("top_k", [1, 2, EXPERTS])
@pytest.mark.parametrize("name", ROUTERS)
def test_no_router_is_left_without_a_gradient_from_the_task(name, top_k):
    layer, state = layer_of(name, top_k, {})
    state.begin(None, (), {})
    layer(torch.randn(12, WIDE, dtype=torch.float64)).square().sum().backward()
    assert layer.router.grad.abs().sum() > 1e-6
