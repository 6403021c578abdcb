import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.core.methods import NoSettings
from tests.reference.routers import reference_sira
from trainer.routers.gates import RouterContext
from trainer.routers.topk import topk


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 999), st.data())
def test_gates_equal_a_loop_over_tokens(tokens, experts, training, seed, data):
    """The reference's experts are all open and never full."""
    k = data.draw(st.integers(1, experts))
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    gates, picked = topk(logits, RouterContext(top_k=k, training=training), NoSettings())
    expected = reference_sira(logits.tolist(), k, [True] * tokens, 1000, [[False] * experts] * tokens)
    torch.testing.assert_close(gates, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert picked is gates


def test_padding_is_routed_like_any_token():
    logits = torch.randn(6, 4)
    masked = topk(logits, RouterContext(top_k=2, token_mask=torch.tensor([True] * 3 + [False] * 3)), NoSettings())
    assert torch.equal(masked.gates, topk(logits, RouterContext(top_k=2), NoSettings()).gates)
