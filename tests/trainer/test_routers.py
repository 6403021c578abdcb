import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference.routers import reference_balance, reference_sira
from trainer import MixtureLinear
from trainer.layers.router_state import RouterState, balance_loss, real_tokens, z_loss
from trainer.routers import ROUTERS, RouterContext
from trainer.settings import MixtureSettings


@pytest.mark.parametrize("name", sorted(ROUTERS))
@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_in_evaluation_gates_are_deterministic_and_sum_to_one(name, experts, k):
    logits = torch.randn(50, experts, dtype=torch.float64)
    gates, picked = ROUTERS[name](logits, RouterContext(top_k=k))
    assert ((gates > 0).sum(-1) == (experts if name == "dense" else k)).all()
    torch.testing.assert_close(gates.sum(-1), torch.ones(50, dtype=torch.float64))
    assert torch.equal(gates > 0, picked > 0)
    if name != "constant":
        assert (gates.argmax(-1) == logits.argmax(-1)).all()
    assert torch.equal(gates, ROUTERS[name](logits, RouterContext(top_k=k)).gates)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.2, 3), st.floats(0, 0.9), st.integers(0, 999), st.data())
def test_sira_in_training_equals_the_loop_over_tokens(tokens, experts, capacity, dropout, seed, data):
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    real = torch.rand(tokens) < 0.8
    routing = RouterContext(top_k=k, training=True, real=real, capacity=capacity, expert_dropout=dropout)
    state = torch.get_rng_state()
    closed = torch.rand_like(logits) < dropout
    torch.set_rng_state(state)
    gates, _ = ROUTERS["sira"](logits, routing)
    expected = reference_sira(logits.tolist(), k, real.tolist(), capacity, closed.tolist())
    torch.testing.assert_close(gates[real], torch.tensor(expected, dtype=torch.float64)[real], rtol=1e-12, atol=1e-12)


def test_constant_gates_are_equal_and_still_train_the_router():
    logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    gates, _ = ROUTERS["constant"](logits, RouterContext(top_k=2, training=True))
    torch.testing.assert_close(gates[gates > 0], torch.full((40,), 0.5, dtype=torch.float64))
    (gates * torch.randn(20, 4)).sum().backward()
    assert logits.grad.abs().sum() > 0


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.integers(1, 5), st.integers(0, 99), st.data())
def test_auxiliary_losses(tokens, experts, seed, data):
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    real = torch.rand(tokens) < 0.7
    real[0] = True
    picked = ROUTERS["topk"](logits, RouterContext(top_k=k)).picked
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
        return float((ROUTERS["topk"](x @ router.T, RouterContext(top_k=1)).picked > 0).float().mean(0).max())

    assert share() > 0.95
    for _ in range(300):
        logits = x @ router.T
        loss = balance_loss(logits, ROUTERS["topk"](logits, RouterContext(top_k=1)).picked, None)
        (gradient,) = torch.autograd.grad(loss, router)
        with torch.no_grad():
            router -= 0.1 * gradient
    assert share() < 0.6


class Small(nn.Module):
    """Two mixtures in a row, called as a transformers model is."""

    def __init__(self, **choices):
        super().__init__()
        torch.manual_seed(0)
        self.routes = RouterState(MixtureSettings(**choices))
        make = lambda site: MixtureLinear(nn.Linear(6, 6), [2, 1, 3], 1, routes=self.routes, site=site)  # noqa: E731
        self.first, self.second = make("first"), make("second")
        self.register_forward_pre_hook(self.routes.begin, with_kwargs=True)

    def forward(self, x, attention_mask=None):
        return self.second(self.first(x))


def test_padding_neither_counts_nor_takes_a_place():
    model = Small(balance_loss=1.0).train()
    x = torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    model(x, attention_mask=mask)
    loss = model.routes.loss()
    other = x.clone()
    other[0, 3:] = 100.0
    model(other, attention_mask=mask)
    torch.testing.assert_close(model.routes.loss(), loss)
    assert model.routes.loss() is None
    loss.backward()
    assert model.first.router.grad.abs().sum() > 0


def test_checkpointed_layers_count_once_and_route_the_same():
    model = Small(router="sira", expert_dropout=0.5, balance_loss=0.1).train()
    x = torch.randn(1, 7, 6, requires_grad=True)
    torch.manual_seed(1)
    plain = model(x)
    (plain.square().sum() + model.routes.loss()).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    torch.manual_seed(1)
    model.routes.begin(model, (), {})
    hidden = torch.utils.checkpoint.checkpoint(model.first, x, use_reentrant=False)
    again = model.second(hidden)
    loss = model.routes.loss()
    torch.testing.assert_close(again, plain)
    (again.square().sum() + loss).backward()
    for ours, theirs in zip((p.grad for p in model.parameters() if p.grad is not None), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_route_health_says_who_does_the_work():
    model = Small(router="sira", capacity=0.5, expert_dropout=0.0).train()
    model.routes.recording = True
    with torch.no_grad():
        model.first.router.zero_()
        model.first.router[1] = 100.0
    model(torch.rand(4, 6, 6) + 0.1)
    first, second = model.routes.health()
    assert (first.site, second.site) == ("first", "second")
    assert first.shares == pytest.approx((0, 1, 0))
    assert first.effective_support == pytest.approx(1)
    assert first.entropy == pytest.approx(0, abs=1e-6)
    assert first.dropped == pytest.approx(1 - 4 / 24)  # capacity ceil(0.5 * 1 * 24 / 3) of 24 tokens
    assert 1 <= second.effective_support <= 3
    assert model.routes.health() == ()


def test_real_tokens_of_every_kind_of_mask():
    flat = torch.tensor([[1, 1, 0]])
    assert real_tokens(None) is None
    assert real_tokens(flat).tolist() == [[True, True, False]]
    square = torch.tril(torch.ones(1, 1, 3, 3, dtype=torch.bool))
    square[..., 2, 2] = False
    assert real_tokens(square).tolist() == [[True, True, False]]
    additive = torch.where(square, 0.0, -1e9)
    assert real_tokens(additive).tolist() == [[True, True, False]]


def test_dropout_acts_on_the_experts_input_in_training_only():
    routes = RouterState(MixtureSettings(dropout=0.5))
    layer = MixtureLinear(nn.Linear(64, 4), [4, 4], 1, routes=routes)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 64)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_mixtures_compile_without_a_graph_break(router):
    layer = MixtureLinear(nn.Linear(16, 8), [2, 3, 1], 2, router=router)
    nn.init.normal_(layer.B)
    x = torch.randn(4, 5, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x) if router != "sira" else compiled.eval()(x), layer.eval()(x))
