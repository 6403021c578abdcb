import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra import InputError
from spectra.core.methods import NoSettings
from tests.reference.routers import reference_sira
from trainer.routers.gates import RouterContext
from trainer.routers.sira import SiraSettings, sira
from trainer.routers.topk import topk


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.2, 3), st.floats(0, 0.9), st.booleans(), st.integers(0, 999), st.data())
def test_in_training_it_equals_the_loop_over_tokens(tokens, experts, capacity, dropout, renormalise, seed, data):
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    real = torch.rand(tokens) < 0.8
    state = torch.get_rng_state()
    closed = torch.rand_like(logits) < dropout
    torch.set_rng_state(state)
    context = RouterContext(top_k=k, training=True, token_mask=real)
    gates, _ = sira(logits, context, SiraSettings(capacity=capacity, expert_dropout=dropout, renormalise=renormalise))
    expected = reference_sira(logits.tolist(), k, real.tolist(), capacity, closed.tolist(), renormalise)
    torch.testing.assert_close(gates[real], torch.tensor(expected, dtype=torch.float64)[real], rtol=1e-12, atol=1e-12)


def test_without_a_mask_every_token_takes_a_place():
    logits = torch.tensor([[1.0, 0.0]] * 6)
    gates, picked = sira(logits, RouterContext(top_k=1, training=True), SiraSettings(capacity=1.0, expert_dropout=0.0))
    gate = float(logits[0].softmax(-1)[0])
    assert gates[:, 0].tolist() == pytest.approx([gate] * 3 + [0.0] * 3)  # ceil(1 * 1 * 6 / 2) places, in order
    assert picked[:, 0].tolist() == pytest.approx([gate] * 6)


def test_evaluation_is_topk_without_limit_or_dropout():
    torch.manual_seed(0)
    logits, context = torch.randn(30, 4), RouterContext(top_k=2)
    tight = sira(logits, context, SiraSettings(capacity=0.01, expert_dropout=0.9))
    assert torch.equal(tight.gates, topk(logits, context, NoSettings()).gates)


def test_dropout_closes_experts_as_often_as_it_says():
    torch.manual_seed(0)
    logits = torch.tensor([[5.0, 0.0]]).repeat(20_000, 1)
    context = RouterContext(top_k=1, training=True)
    _, picked = sira(logits, context, SiraSettings(capacity=1000, expert_dropout=0.3))
    # The second expert is picked where the first is closed and it is open itself; both closed compete as if both were open.
    assert float((picked[:, 1] > 0).double().mean()) == pytest.approx(0.3 * 0.7, abs=4 * math.sqrt(0.21 * 0.79 / 20_000))


@pytest.mark.parametrize("given", [{"capacity": 0}, {"capacity": 1001}, {"expert_dropout": 1}, {"expert_dropout": -0.1}])
def test_settings_that_leave_no_expert_are_refused(given):
    with pytest.raises(InputError, match=f"here: {next(iter(given))}"):
        SiraSettings.checked(given, "here")
