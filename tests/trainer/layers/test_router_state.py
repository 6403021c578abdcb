"""What a model's mixtures share: losses, health and usage, none of which padding moves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectra.core.methods import NoSettings
from tests.reference.routers import reference_balance
from trainer import MixtureLinear, MixtureSettings
from trainer.layers.router_state import RouterState, balance_loss, mask_for, token_mask, z_loss
from trainer.routers.gates import Gates, RouterContext
from trainer.routers.topk import topk


def picks(logits, k):
    return topk(logits, RouterContext(top_k=k), NoSettings()).picked


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(1, 5), st.integers(0, 99), st.data())
def test_auxiliary_losses(tokens, experts, seed, data):
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    real = torch.rand(tokens) < 0.7
    real[0] = True
    picked = picks(logits, k)
    expected = reference_balance(logits.softmax(-1).tolist(), picked.tolist(), real.tolist())
    assert float(balance_loss(logits, picked, real)) == pytest.approx(expected, rel=1e-12)
    squares = [
        math.log(sum(map(math.exp, row))) ** 2 for row, is_real in zip(logits.tolist(), real.tolist(), strict=True) if is_real
    ]
    assert float(z_loss(logits, real)) == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_even_picks_have_a_balance_loss_of_one():
    logits = torch.eye(4, dtype=torch.float64) * 1e-9
    assert float(balance_loss(logits, torch.eye(4, dtype=torch.float64), None)) == pytest.approx(1)


def test_following_the_balance_loss_mends_a_collapse():
    torch.manual_seed(0)
    x = torch.rand(200, 8) + 0.1
    router = torch.randn(4, 8) * 0.1
    router[2] += 1.0
    router.requires_grad_()

    def share():
        return float((picks(x @ router.T, 1) > 0).float().mean(0).max())

    assert share() > 0.95
    for _ in range(300):
        logits = x @ router.T
        loss = balance_loss(logits, picks(logits, 1), None)
        (gradient,) = torch.autograd.grad(loss, router)
        with torch.no_grad():
            router -= 0.1 * gradient
    assert share() < 0.6


class Small(nn.Module):
    """Two mixtures in a row, called as a transformers model is."""

    def __init__(self, **choices):
        super().__init__()
        torch.manual_seed(0)
        self.state = RouterState(MixtureSettings(**choices))
        make = lambda site: MixtureLinear(nn.Linear(6, 6), [2, 1, 3], 1, state=self.state, site=site)  # noqa: E731
        self.first, self.second = make("first"), make("second")
        self.register_forward_pre_hook(self.state.begin, with_kwargs=True)

    def forward(self, x, attention_mask=None):
        return self.second(self.first(x))


def test_padding_neither_counts_nor_takes_a_place():
    model = Small(balance_loss=1.0).train()
    x = torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    model(x, attention_mask=mask)
    loss = model.state.loss()
    other = x.clone()
    other[0, 3:] = 100.0
    model(other, attention_mask=mask)
    torch.testing.assert_close(model.state.loss(), loss)
    assert model.state.loss() is None
    loss.backward()
    assert model.first.router.grad.abs().sum() > 0


def test_checkpointed_layers_count_once_and_route_the_same():
    model = Small(router={"name": "sira", "settings": {"expert_dropout": 0.5}}, balance_loss=0.1).train()
    x = torch.randn(1, 7, 6, requires_grad=True)
    torch.manual_seed(1)
    plain = model(x)
    (plain.square().sum() + model.state.loss()).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    torch.manual_seed(1)
    model.state.begin(model, (), {})
    hidden = torch.utils.checkpoint.checkpoint(model.first, x, use_reentrant=False)
    again = model.second(hidden)
    loss = model.state.loss()
    torch.testing.assert_close(again, plain)
    (again.square().sum() + loss).backward()
    for ours, theirs in zip((p.grad for p in model.parameters() if p.grad is not None), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_router_health_says_who_does_the_work():
    model = Small(router={"name": "sira", "settings": {"capacity": 0.5, "expert_dropout": 0.0}}).train()
    model.state.recording = True
    with torch.no_grad():
        model.first.router.zero_()
        model.first.router[1] = 100.0
    model(torch.rand(4, 6, 6) + 0.1)
    first, second = model.state.health()
    assert (first.site, second.site) == ("first", "second")
    assert first.shares == pytest.approx((0, 1, 0))
    assert first.effective_support == pytest.approx(1)
    assert first.entropy == pytest.approx(0, abs=1e-6)
    assert first.dropped == pytest.approx(1 - 4 / 24)  # capacity ceil(0.5 * 1 * 24 / 3) of 24 tokens
    assert 1 <= second.effective_support <= 3
    assert model.state.health() == ()


def test_the_tokens_that_count_under_every_kind_of_mask():
    flat = torch.tensor([[1, 1, 0]])
    assert token_mask(None) is None
    assert token_mask(flat).tolist() == [[True, True, False]]
    square = torch.tril(torch.ones(1, 1, 3, 3, dtype=torch.bool))
    square[..., 2, 2] = False
    assert token_mask(square).tolist() == [[True, True, False]]
    additive = torch.where(square, 0.0, -1e9)
    assert token_mask(additive).tolist() == [[True, True, False]]
    assert token_mask(torch.ones(3)) is None
    assert token_mask("causal") is None


def test_a_mask_says_nothing_about_a_module_that_sees_other_tokens():
    state = RouterState(MixtureSettings())
    assert mask_for(None, 4) is None
    assert mask_for(state, 4) is None
    state.begin(None, (), {"attention_mask": torch.tensor([[1, 1], [1, 0]])})
    assert mask_for(state, 4).tolist() == [True, True, True, False]
    assert mask_for(state, 2) is None  # pooled states
    state.begin(None, (), {})
    assert mask_for(state, 4) is None


def test_usage_is_summed_from_pass_to_pass_until_it_is_taken():
    model = Small().train()
    x, mask = torch.randn(2, 5, 6), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    model(x, attention_mask=mask)
    assert model.state.take_usage("first") is None  # nobody has asked to count
    model.state.counting = True
    for _ in range(2):
        model(x, attention_mask=mask)
    logits = x.reshape(-1, 6) @ model.first.router.T
    best = nn.functional.one_hot(logits.argmax(-1), 3)
    picked = best * logits.softmax(-1) * mask.reshape(-1, 1)  # a single expert's gate is its probability
    torch.testing.assert_close(model.state.take_usage("first"), 2 * picked.sum(0))
    assert model.state.take_usage("first") is None
    assert 0 < float(model.state.take_usage("second").sum()) < 16  # of 8 tokens, twice
    model.eval()(x)
    assert model.state.take_usage("first") is None  # evaluation is no use


def test_usage_counts_what_a_capacity_limit_turned_away():
    """Growth goes by what the router wanted."""
    state = RouterState(MixtureSettings())
    state.counting = True
    picked = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    state.observe("site", torch.zeros(2, 2), Gates(picked * torch.tensor([[1.0], [0.0]]), picked), None)
    assert state.take_usage("site").tolist() == [2.0, 0.0]


def test_use_is_counted_at_learned_tokens_and_health_tells_of_both():
    state = RouterState(MixtureSettings())
    state.recording = state.counting = True
    state.token_mask = torch.tensor([[True, True, True], [True, True, False]])
    state.learned_mask = torch.tensor([[False, True, False], [True, False, False]])
    picked = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    kept = picked * torch.tensor([[1.0], [1.0], [0.0], [1.0], [1.0], [1.0]])  # the third token is turned away
    logits = torch.randn(6, 2)
    state.observe("site", logits, Gates(kept, picked), mask_for(state, 6))
    (health,) = state.health()
    assert health.shares == pytest.approx((2 / 5, 3 / 5))
    assert health.learned_shares == pytest.approx((1 / 2, 1 / 2))
    assert (health.dropped, health.unserved) == (pytest.approx(1 / 5), pytest.approx(1 / 5))
    assert state.take_usage("site").tolist() == [1.0, 1.0]
    state.counts_learned, state.counts_softmax = False, True
    state.observe("site", logits, Gates(kept, picked), mask_for(state, 6))
    torch.testing.assert_close(state.take_usage("site"), logits[:5].softmax(-1).sum(0))


def test_the_bases_own_experts_are_counted_by_their_routing_weights():
    state = RouterState(MixtureSettings())
    index, weights = torch.tensor([[0, 2], [2, 1], [0, 1]]), torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]])
    state.observe_experts("layer", index, weights, 4)
    assert state.take_usage("layer") is None  # nobody has asked
    state.recording = state.counting = True
    state.learned_mask = torch.tensor([[False, True, False]])
    state.observe_experts("layer", index, weights, 4)
    assert state.take_usage("layer").tolist() == [0.0, 0.5, 0.5, 0.0]
    (health,) = state.health()
    assert health.shares == pytest.approx((1.75 / 3, 0.5 / 3, 0.75 / 3, 0))
    assert health.learned_shares == pytest.approx((0, 0.5, 0.5, 0))
    assert all(math.isnan(value) for value in (health.entropy, health.dropped, health.unserved))


def test_the_auxiliary_loss_is_the_mean_over_mixtures_of_both_terms():
    state = RouterState(MixtureSettings(balance_loss=0.5, z_loss=0.25))
    torch.manual_seed(0)
    expected = []
    for site in ("one", "other"):
        logits = torch.randn(7, 3, dtype=torch.float64)
        gates = picks(logits, 2)
        state.observe(site, logits, Gates(gates, gates), None)
        expected.append(0.5 * balance_loss(logits, gates, None) + 0.25 * z_loss(logits, None))
    torch.testing.assert_close(state.loss(), sum(expected) / 2)
    assert RouterState(MixtureSettings()).loss() is None


def test_half_precision_weights_of_many_tokens_are_summed_in_single_precision():
    """In bf16 a sum of thousands of halves stops at 128, and all busy experts come out alike."""
    state = RouterState(MixtureSettings())
    state.recording = state.counting = True
    index = torch.tensor([[0, 1]] * 3000 + [[0, 2]] * 1000)
    state.observe_experts("layer", index, torch.full((4000, 2), 0.5, dtype=torch.bfloat16), 3)
    assert state.take_usage("layer").tolist() == [2000.0, 1500.0, 500.0]
    assert state.health()[0].shares == pytest.approx((0.5, 0.375, 0.125))
