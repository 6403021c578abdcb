import pytest
import torch

from spectra.core.methods import NoSettings
from trainer.routers import ROUTERS, RouterContext
from trainer.routers.sira import SiraSettings


def test_the_names_of_the_routers_in_the_order_in_which_they_are_listed():
    assert list(ROUTERS) == ["topk", "sira", "dense", "constant"]


def test_who_has_settings_of_its_own():
    own = {name: row.settings for name, row in ROUTERS.items() if row.settings is not NoSettings}
    assert own == {"sira": SiraSettings}


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_every_row_says_what_it_does_and_its_settings_what_they_are(name):
    row = ROUTERS[name]
    assert row.run.__doc__
    assert all(field.description for field in row.settings.model_fields.values())
    assert row.settings()  # every default can be left alone


@pytest.mark.parametrize("name", sorted(ROUTERS))
@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_in_evaluation_gates_are_deterministic_and_sum_to_one(name, experts, k):
    run, own = ROUTERS[name].run, ROUTERS[name].settings()
    torch.manual_seed(0)
    logits = torch.randn(50, experts, dtype=torch.float64)
    gates, picked = run(logits, RouterContext(top_k=k), own)
    assert ((gates > 0).sum(-1) == (experts if name == "dense" else k)).all()
    # A single expert of several keeps its probability, or its router would have nothing to learn.
    sums = logits.softmax(-1).amax(-1) if k == 1 < experts and name in ("topk", "sira") else torch.ones(50, dtype=torch.float64)
    torch.testing.assert_close(gates.sum(-1), sums)
    assert torch.equal(gates > 0, picked > 0)
    if name != "constant":
        assert (gates.argmax(-1) == logits.argmax(-1)).all()
    assert torch.equal(gates, run(logits, RouterContext(top_k=k), own).gates)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_in_training_every_router_can_be_learned(name, k):
    torch.manual_seed(0)
    logits = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    gates = ROUTERS[name].run(logits, RouterContext(top_k=k, training=True), ROUTERS[name].settings()).gates
    (gates * torch.randn(20, 4)).sum().backward()
    assert logits.grad.abs().sum() > 0
