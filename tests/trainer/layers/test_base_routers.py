"""The base's own routers, trained: in single precision, rounded where they are used, saved, loaded and merged."""

import pytest
import torch

from planner.modules.fused_experts import is_experts, router_of
from spectra import InputError
from tests import models
from tests.trainer.examples import SHORT, uniform, with_ranks
from trainer import evaluate, load_adapters, merge, train
from trainer.adapters.tensors import trained_state
from trainer.layers.base_routers import router_parameters, settle_routers, unfreeze_routers
from trainer.layers.inject import apply_plan
from trainer.report import RunReport
from trainer.run_folder import REPORT

ROUTED = SHORT.model_copy(update={"max_steps": 12, "learning_rate": 2e-2, "train_router": True, "warmup": 0.5})


@pytest.fixture(scope="module")
def plan(tiny_olmoe):
    return with_ranks(uniform(tiny_olmoe, "rank 2", max_experts=1), lambda site: (2,) if site.routed else ())


def olmoe(plan):
    return apply_plan(models.build("olmoe"), plan)


@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_the_router_beside_the_experts_is_found_in_every_family(family):
    model = models.build(family)
    for name, module in model.named_modules():
        if is_experts(module):
            block = model.get_submodule(name.rpartition(".")[0])
            router = router_of(model, name)
            assert router is getattr(block, "gate", None) or router is getattr(block, "router", None)
            assert len(router.weight) == len(module.down_proj)


def test_a_trained_router_computes_as_before_and_gets_a_gradient(plan):
    model = olmoe(plan)
    ids = torch.tensor([[3, 4, 5, 6]])
    before = model(input_ids=ids).logits
    unfreeze_routers(model)
    after = model(input_ids=ids).logits
    assert torch.equal(after, before)
    after.square().sum().backward()
    routers = list(router_parameters(model))
    assert [tuple(router.shape) for router in routers] == [(4, 32)] * 2
    assert all(router.grad.abs().sum() > 0 for router in routers)


def test_a_half_precision_router_learns_what_its_precision_cannot_say(plan):
    model = apply_plan(models.build("olmoe").to(torch.bfloat16), plan)
    unfreeze_routers(model)
    gate = router_of_layer(model)
    assert gate.weight.dtype == torch.bfloat16
    (original, *_) = router_parameters(model)
    assert original.dtype == torch.float32
    with torch.no_grad():
        for _ in range(100):
            original.add_(1e-5)
    assert not torch.equal(gate.weight, original.to(torch.bfloat16) - 1e-3)
    settle_routers(model)
    assert torch.equal(gate.weight, original.to(torch.bfloat16))
    assert list(router_parameters(model)) == []
    assert not gate.weight.requires_grad


def router_of_layer(model):
    return router_of(model, "model.layers.0.mlp.experts")


def test_a_plan_that_adapts_no_routed_experts_is_refused(tiny_olmoe, sentences, tmp_path):
    dense = with_ranks(uniform(tiny_olmoe, "rank 2", max_experts=1), lambda site: () if site.routed else (2,))
    with pytest.raises(InputError, match="`train_router`: the plan adapts no routed experts"):
        unfreeze_routers(olmoe(dense))
    with pytest.raises(InputError, match="`train_router` has no effect on a plan that adapts no routed experts"):
        train(dense, tiny_olmoe, sentences, tmp_path / "run", ROUTED)


@pytest.mark.training
def test_a_run_trains_the_routers_after_the_warm_up_and_keeps_them(plan, tiny_olmoe, sentences, tmp_path):
    report = train(plan, tiny_olmoe, sentences, tmp_path / "run", ROUTED)
    assert report.base_router_parameters == 2 * 4 * 32
    assert RunReport.load(tmp_path / "run" / REPORT).to_json() == report.to_json()
    model = load_adapters(tmp_path / "run")  # which compares logits with those at the end of the run
    moved = {name: tensor for name, tensor in trained_state(model).items() if ".gate." in name}
    assert len(moved) == 2
    fresh = load_base(tiny_olmoe)
    for name, tensor in moved.items():
        base = fresh.get_parameter(name.replace(".parametrizations.weight.original", ".weight"))
        assert (tensor - base).abs().max() > 1e-4
    assert evaluate(tmp_path / "run", sentences).trained["loss"] > 0


@pytest.mark.training
def test_routers_stand_still_while_the_rate_rises(plan, tiny_olmoe, sentences, tmp_path):
    settings = ROUTED.model_copy(update={"warmup": 12, "weight_decay": 0.5})
    train(plan, tiny_olmoe, sentences, tmp_path / "run", settings)
    fresh = load_base(tiny_olmoe)
    for name, tensor in trained_state(load_adapters(tmp_path / "run")).items():
        if ".gate." in name:
            assert torch.equal(tensor, fresh.get_parameter(name.replace(".parametrizations.weight.original", ".weight")))


@pytest.mark.training
def test_a_run_with_trained_routers_is_merged_with_them(plan, tiny_olmoe, sentences, tmp_path):
    train(plan, tiny_olmoe, sentences, tmp_path / "run", ROUTED)
    merge(tmp_path / "run", tmp_path / "merged")
    merged, ids = load_base(tmp_path / "merged"), torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(merged(input_ids=ids).logits, load_adapters(tmp_path / "run")(input_ids=ids).logits)


def load_base(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
