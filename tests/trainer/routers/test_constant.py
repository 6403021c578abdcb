import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.core.methods import NoSettings
from tests.reference.routers import reference_sira
from trainer.routers.constant import constant
from trainer.routers.gates import RouterContext


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 999), st.data())
def test_the_best_experts_of_a_loop_over_tokens_share_evenly(tokens, experts, training, seed, data):
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    gates, picked = constant(logits, RouterContext(top_k=k, training=training), NoSettings())
    chosen = torch.tensor(reference_sira(logits.tolist(), k, [True] * tokens, 1000, [[False] * experts] * tokens)) > 0
    assert torch.equal(picked, chosen.double())
    torch.testing.assert_close(gates, chosen.double() / k, rtol=1e-12, atol=1e-12)


def test_constant_gates_are_equal_and_still_train_the_router():
    logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    gates, _ = constant(logits, RouterContext(top_k=2, training=True), NoSettings())
    torch.testing.assert_close(gates[gates > 0], torch.full((40,), 0.5, dtype=torch.float64))
    (gates * torch.randn(20, 4)).sum().backward()
    assert logits.grad.abs().sum() > 0


def test_the_gradient_is_that_of_the_softmax_at_the_chosen_experts():
    logits = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(7, 4, dtype=torch.float64)
    gates, chosen = constant(logits, RouterContext(top_k=2, training=True), NoSettings())
    (ours,) = torch.autograd.grad((gates * direction).sum(), logits)
    (theirs,) = torch.autograd.grad((logits.softmax(-1) * chosen * direction).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_in_evaluation_nothing_is_learned():
    logits = torch.randn(5, 4, requires_grad=True)
    assert not constant(logits, RouterContext(top_k=2), NoSettings()).gates.requires_grad
