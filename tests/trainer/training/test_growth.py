"""DR-LoRA's growth: arithmetic against references, and whole runs."""

import pytest
import torch
from safetensors.torch import load_file

import planner
from planner.modules.fused_experts import is_experts
from planner.strategies.growth import grown as grown_ranks
from spectra import InputError
from tests import models
from tests.reference.growth import reference_importance
from tests.trainer.examples import SHORT, assert_same_bytes, kill_at, uniform, with_ranks
from trainer import MixtureSettings, apply_plan, evaluate, load_adapters, train
from trainer.layers.expert_lora import ExpertLora, adapt, expert_loras
from trainer.layers.router_state import RouterState
from trainer.report import GrowthHistory
from trainer.run_folder import HISTORY, PLAN, WEIGHTS
from trainer.settings import GrowthSettings
from trainer.training.growth import GrowingGroup, Growth, grown_plan, schedule
from trainer.training.growth_groups import RoutedGroup


def test_the_schedule_begins_after_the_warm_up_and_leaves_an_interval_at_the_end():
    steps = schedule(3750, 112, GrowthSettings())
    assert len(steps) == 18
    assert steps[0] > 112
    assert 3750 - steps[-1] >= steps[1] - steps[0]
    assert schedule(3750, 1000, GrowthSettings())[0] > 1000
    assert schedule(1000, 30, GrowthSettings(growth_every=200)) == [230, 430, 630]


@pytest.mark.parametrize(("steps", "given"), [(10, {}), (19, {}), (100, {"growth_every": 60}), (6, {"growth_events": 5})])
def test_a_run_too_short_for_its_events_is_refused(steps, given):
    with pytest.raises(
        InputError, match=rf"`grow` has no place for .*: the run has {steps} steps, 1 of them before growth begins"
    ):
        schedule(steps, 1, GrowthSettings(**given))
    assert schedule(20, 1, GrowthSettings()) == list(range(2, 20))


GROWN = SHORT.model_copy(update={"max_steps": 24, "learning_rate": 2e-2, "grow": True, "warmup": 0.05})


def up_and_down(site):
    """Rank 4 on the up and down projections of every expert: growth goes from 2 to at most 8."""
    return (4,) if site.routed and site.name.endswith(("up_proj", "down_proj")) else ()


@pytest.fixture(scope="module")
def plan(tiny_olmoe):
    return with_ranks(uniform(tiny_olmoe, "rank 4", max_experts=1), up_and_down)


def experts_with_room(**given):
    experts = next(module for module in models.build("olmoe").modules() if is_experts(module))
    state = RouterState(MixtureSettings())
    state.counting = True
    lora = ExpertLora(experts, {"up_proj": [4] * 4, "down_proj": [4] * 4}, lora_alpha=4.0, state=state, name="layer")
    adapt(experts, lora)
    return experts, lora, GrowingGroup(RoutedGroup("layer.loraplan", lora, GrowthSettings()), GrowthSettings(**given))


def test_importance_and_share_equal_the_formula_over_several_steps():
    experts, lora, layer = experts_with_room()
    assert (layer.group.start, layer.group.most, lora.ranks["up_proj"]) == (2, 8, [2, 2, 2, 2])
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2)
    seen, share = [], torch.full((4,), 0.25)
    experts.train()
    for _ in range(4):
        hidden, weights = torch.randn(12, 32), torch.rand(12, 2)
        index = torch.stack([torch.randperm(4)[:2] for _ in range(12)])
        experts(hidden, index, weights).square().sum().backward()
        seen.append(
            [
                side.detach().clone()
                for side in (lora.A["up_proj"], lora.A["up_proj"].grad, lora.B["up_proj"], lora.B["up_proj"].grad)
            ]
        )
        used = torch.stack([weights[index == expert].sum() for expert in range(4)])
        share = 0.9 * share + 0.1 * used / used.sum()
        with torch.no_grad():
            layer.observe()
        optimiser.step()
        optimiser.zero_grad()
    torch.testing.assert_close(layer.share, share)
    for expert in range(4):
        steps = [[side[expert].tolist() for side in step] for step in seen]
        expected = reference_importance(steps)
        assert layer.importance["up_proj"][expert].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-12)
    mean = [
        torch.stack([layer.importance[part][expert, :2].mean() for part in ("up_proj", "down_proj")]).mean()
        for expert in range(4)
    ]
    assert layer.weights() == pytest.approx([float(share[expert] * mean[expert]) for expert in range(4)], rel=1e-4)


def test_new_directions_change_nothing_and_train_from_a_clean_start():
    experts, lora, layer = experts_with_room()
    for part in lora.ranks:
        torch.nn.init.normal_(lora.B[part].data[:, :, :2])
    hidden, weights = torch.randn(6, 32), torch.rand(6, 2)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(6)])
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.1)
    experts(hidden, index, weights).square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    before = experts(hidden, index, weights)
    layer.share, layer.importance = torch.full((4,), 0.25), {"up_proj": torch.ones(4, 8)}
    layer.group.grow_to(layer.decide(3, 8))  # three eighths of the way from 8 ranks to 16
    assert sum(layer.group.ranks) == 11
    torch.testing.assert_close(experts(hidden, index, weights), before, rtol=0, atol=0)
    grown = next(expert for expert, rank in enumerate(layer.group.ranks) if rank > 2)
    for state in (optimiser.state[lora.A["up_proj"]], optimiser.state[lora.B["up_proj"]]):
        moments = state["exp_avg"]
        side = moments[grown, 2:] if moments is optimiser.state[lora.A["up_proj"]]["exp_avg"] else moments[grown, :, 2:]
        assert side.abs().sum() == 0
    assert lora.A["up_proj"][grown, 2].abs().sum() > 0

    # what was earned moves with the experts' scaling into the final one
    layer.group.finish(lora_alpha=4.0)
    torch.testing.assert_close(experts(hidden, index, weights), before, rtol=1e-5, atol=1e-5)


def test_the_released_form_adds_the_two_gradient_terms():
    experts, lora, layer = experts_with_room(saliency="released")
    torch.nn.init.normal_(lora.B["up_proj"].data[:, :, :2])
    experts.train()(torch.randn(12, 32), torch.tensor([[0, 1]] * 12), torch.rand(12, 2)).square().sum().backward()
    A, B = lora.A["up_proj"], lora.B["up_proj"]
    with torch.no_grad():
        layer.observe()
        pull = (A * A.grad).sum(-1).abs() + (B * B.grad).sum(1).abs()
    torch.testing.assert_close(layer.importance["up_proj"], 0.1 * pull, rtol=1e-4, atol=1e-9)


def test_before_anything_was_observed_growth_waits():
    _, _, layer = experts_with_room()
    assert layer.weights() == [0.0] * 4
    assert layer.shares() == [0.25] * 4
    assert layer.decide(7, 8) == [2, 2, 2, 2]
    assert layer.decide(8, 8) == [4, 4, 4, 4]  # the target has to be reached, and nobody is known to deserve more
    layer.share, layer.importance = torch.tensor([0.7, 0.1, 0.1, 0.1]), {"up_proj": torch.ones(4, 8)}
    layer.forget()
    assert layer.weights() == [0.0] * 4


@pytest.mark.parametrize("handout", ["one-by-one", "one-pass"])
@pytest.mark.parametrize("seed", range(5))
def test_under_signals_that_stand_still_growth_ends_where_the_static_plan_is(handout, seed, monkeypatch):
    """Event by event as a run holds them, with room in the layer's own adapters, against the rule of the static plan."""
    _, _, layer = experts_with_room(growth_handout=handout)
    draws = torch.Generator().manual_seed(seed)
    weights, shares = (torch.rand(4, generator=draws, dtype=torch.float64).tolist() for _ in range(2))
    monkeypatch.setattr(layer, "weights", lambda: weights)
    monkeypatch.setattr(layer, "shares", lambda: shares)
    for done in range(1, 19):
        layer.group.grow_to(layer.decide(done, 18))
    assert layer.group.ranks == grown_ranks(layer.settings, weights, shares, target=16, most=8)


def grown_model(plan):
    model = apply_plan(models.build("olmoe"), plan)
    return model, Growth(model, plan, 24, GrowthSettings(), begin=1)


def test_every_process_and_every_resumed_run_starts_the_same_directions(plan):
    drawn = []
    for noise in (1, 2):
        model, growth = grown_model(plan)
        torch.manual_seed(noise)
        before = [parameter.clone() for parameter in model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for lora in expert_loras(model).values():
                for A in lora.A.values():
                    A.zero_()
        growth.event(17, 19)
        assert len(before) == 8
        drawn.append([A.clone() for lora in expert_loras(model).values() for A in lora.A.values()])
    assert all(A.any() for A in drawn[0])
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))


def test_an_event_is_noted_with_what_decided_it(plan):
    _, growth = grown_model(plan)
    saliency = {name: growing.saliency() for name, growing in growth.groups.items()}
    growth.event(0, 2)
    (event,) = growth.history
    assert (event.step, event.saliency) == (2, saliency)
    assert event.ranks == {name: tuple(growing.group.ranks) for name, growing in growth.groups.items()}
    assert set(event.shares.values()) == {()}  # nothing observed yet
    assert all(sum(ranks) == 8 for ranks in event.ranks.values())  # one eighteenth of the way is less than a rank


def test_the_grown_plan_keeps_its_size_and_says_what_it_is(plan):
    routed = [site.name for site in plan.sites if site.ranks]
    grown = grown_plan(plan, {name: (2 + 4 * ("experts.0" in name or "experts.1" in name),) for name in routed})
    assert grown.parameters == plan.parameters
    assert (grown.strategy, grown.optimum) == ("dr-lora-grown", None)
    (note,) = grown.notes
    assert (note.about, note.text) == ("grown", "Ranks were grown by DR-LoRA's rule from a plan by 'uniform' of the same size.")
    assert {site.ranks for site in grown.sites if not site.routed} == {()}
    with pytest.raises(ValueError, match=r"budget\.parameters says"):
        grown_plan(plan, dict.fromkeys(routed, (5,)))


@pytest.fixture(scope="module")
def grown(tiny_olmoe, plan, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown") / "run"
    train(plan, tiny_olmoe, sentences, folder, GROWN)
    return folder


@pytest.mark.training
def test_a_run_grows_to_exactly_the_plans_size(grown, plan):
    final = planner.Plan.load(grown / PLAN)
    assert final.parameters == plan.parameters
    assert final.strategy == "dr-lora-grown"
    ranks = {site.ranks for site in final.sites if site.ranks}
    assert len(ranks) > 1
    history = GrowthHistory.load(grown / HISTORY)
    assert len(history.events) == 18
    totals = [[sum(ranks) for ranks in event.ranks.values()] for event in history.events]
    assert totals == sorted(totals)
    assert totals[-1] == [16, 16]
    assert all(sum(share) == pytest.approx(1, abs=1e-4) for event in history.events for share in event.shares.values())


@pytest.mark.training
def test_the_grown_run_comes_back_and_its_plan_trains_statically(grown, tiny_olmoe, sentences, tmp_path):
    result = evaluate(grown, sentences)
    assert result.trained["loss"] < result.untrained["loss"]
    ended = GrowthHistory.load(grown / HISTORY).events[-1].ranks
    assert {name: tuple(lora.ranks["up_proj"]) for name, lora in expert_loras(load_adapters(grown)).items()} == ended
    final = planner.Plan.load(grown / PLAN)
    still = train(final, tiny_olmoe, sentences, tmp_path / "static", GROWN.model_copy(update={"grow": False}))
    assert still.adapter_parameters == final.parameters
    stored = load_file(tmp_path / "static" / WEIGHTS)
    assert {name: tuple(t.shape) for name, t in stored.items()} == {
        name: tuple(t.shape) for name, t in load_file(grown / WEIGHTS).items()
    }


def assert_same_bits_when_cut(whole, plan, model, data, settings, folder):
    """Kill the run in the middle of its growth, go on, and compare with one that nobody disturbed."""
    with pytest.raises(RuntimeError, match="killed"):
        train(plan, model, data, folder, settings, progress=kill_at(13))
    train(plan, model, data, folder, settings, resume=True)
    assert_same_bytes(whole, folder, (WEIGHTS, PLAN, HISTORY))


@pytest.mark.training
def test_an_interrupted_growth_goes_on_to_the_same_bits(grown, tiny_olmoe, plan, sentences, tmp_path):
    assert_same_bits_when_cut(grown, plan, tiny_olmoe, sentences, GROWN, tmp_path / "cut")


@pytest.mark.training
@pytest.mark.parametrize("cut", [4, 21])
def test_a_growth_that_begins_late_forgets_and_hands_out_in_one_pass_goes_on_to_the_same_bits(
    cut, tiny_olmoe, plan, sentences, tmp_path
):
    given = {"warmup": 0.4, "growth_events": 4, "growth_handout": "one-pass", "growth_reset": True, "saliency": "absolute"}
    chosen = GROWN.model_copy(update=given)
    train(plan, tiny_olmoe, sentences, tmp_path / "whole", chosen)
    events = GrowthHistory.load(tmp_path / "whole" / HISTORY).events
    assert [event.step for event in events] == [12, 14, 16, 18]
    with pytest.raises(RuntimeError, match="killed"):  # before the first event, and after the last
        train(plan, tiny_olmoe, sentences, tmp_path / "cut", chosen, progress=kill_at(cut))
    train(plan, tiny_olmoe, sentences, tmp_path / "cut", chosen, resume=True)
    assert_same_bytes(tmp_path / "whole", tmp_path / "cut", (WEIGHTS, PLAN, HISTORY))


@pytest.mark.training
@pytest.mark.parametrize("saliency", ["paper", "released", "absolute"])
def test_mixtures_on_a_dense_base_grow_too(tiny_llama, sentences, tmp_path, saliency):
    dense = uniform(tiny_llama, "30k", expert_rank=4, max_experts=3, max_rank=12)
    assert {site.ranks for site in dense.sites} == {(4, 4, 4)}
    chosen = GROWN.model_copy(update={"saliency": saliency})
    train(dense, tiny_llama, sentences, tmp_path / "run", chosen)
    final = planner.Plan.load(tmp_path / "run" / PLAN)
    assert final.parameters == dense.parameters
    assert {sum(site.ranks) for site in final.sites} == {12}
    assert len({site.ranks for site in final.sites}) > 1
    result = evaluate(tmp_path / "run", sentences)  # ends with a comparison of logits, so cutting back kept them
    assert result.trained["loss"] < result.untrained["loss"]
    assert_same_bits_when_cut(tmp_path / "run", dense, tiny_llama, sentences, chosen, tmp_path / "cut")


@pytest.mark.training
def test_what_cannot_grow_is_refused(tiny_olmoe, uniform_plan, minilm, small_corpus, plan, sentences, tmp_path):
    with pytest.raises(InputError, match="`grow`: the plan 'none' adapts neither routed experts nor mixtures"):
        train(uniform_plan.without_adapters(), minilm, small_corpus[0], tmp_path / "run", GROWN)
    low = uniform(tiny_olmoe, "rank 1", max_experts=1)
    with pytest.raises(InputError, match="experts start with rank 1, which is all that the plan gives"):
        train(low, tiny_olmoe, sentences, tmp_path / "run", GROWN)
    with pytest.raises(InputError, match="`grow` has no place for 18 events: the run has 8 steps"):
        train(plan, tiny_olmoe, sentences, tmp_path / "run", GROWN.model_copy(update={"max_steps": 8}))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="`grow` keeps no best adapters on the way"):
        train(plan, tiny_olmoe, sentences, tmp_path / "run", GROWN, evaluation=sentences)


@pytest.mark.training
def test_growth_does_not_start_from_a_changed_base(tiny_llama, sentences, tmp_path):
    plan = uniform(tiny_llama, "30k", expert_rank=4, max_experts=3, max_rank=12)
    settings = GROWN.model_copy(update={"init": "svd", "max_steps": 30})
    message = r"`grow` starts experts over and so cannot follow an `init` that has changed their base weight; use `init` kaiming"
    with pytest.raises(InputError, match=message):
        train(plan, tiny_llama, sentences, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_experts_whose_projections_differ_in_total_rank_are_refused(tiny_olmoe):
    uneven = with_ranks(uniform(tiny_olmoe, "rank 4"), lambda site: (4 if site.name.endswith("up_proj") else 3,))
    with pytest.raises(InputError, match=r"`grow`: projections have unequal total ranks, .* an expert grows in all of them"):
        grown_model(uneven)
