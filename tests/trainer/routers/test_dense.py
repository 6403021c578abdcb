import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.core.methods import NoSettings
from tests.reference.routers import reference_sira
from trainer.routers.dense import dense
from trainer.routers.gates import RouterContext


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
def test_every_expert_has_its_share_of_every_token_whatever_k(tokens, experts, seed):
    torch.manual_seed(seed)
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    gates, picked = dense(logits, RouterContext(top_k=1), NoSettings())
    expected = reference_sira(logits.tolist(), experts, [True] * tokens, 1000, [[False] * experts] * tokens)
    torch.testing.assert_close(gates, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert picked is gates
    assert (gates > 0).all()
