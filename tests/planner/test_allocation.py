import math

import numpy as np
import pytest

import planner
from planner import AllocationSettings, allocate
from planner.sensitivity.report import Estimate, TrialRun
from planner.strategies import STRATEGIES
from spectra import InputError, open_checkpoint
from spectra.checkpoint.names import parse_name


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"hot-experts"}))
@pytest.mark.parametrize("budget", ["60k", "1%", "4%"])
def test_every_strategy_stays_within_every_budget(evidence, strategy, budget):
    plan = allocate(budget, AllocationSettings(strategy=strategy), **evidence)
    assert len(plan.sites) == 36
    assert 0 < plan.parameters == plan.budget.spent <= plan.budget.limit
    assert (plan.optimum is None) == (strategy == "dr-lora")  # which follows a rule and has no objective
    assert plan.optimum is None or plan.optimum.gap <= 1e-3
    again = allocate(budget, AllocationSettings(strategy=strategy), **evidence)
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize("strategy", ["uniform", "alphalora", "combined"])
def test_every_site_keeps_a_rank(evidence, strategy):
    plan = allocate("45k", AllocationSettings(strategy=strategy), **evidence)
    assert all(site.ranks for site in plan.sites)


@pytest.mark.parametrize(
    ("budget", "settings", "message"),
    [
        ("1000", {}, r"too small for one rank at each of the 36 sites, which takes 41,472; `min_rank` 0 lets sites go without"),
        (
            "5 experts",
            {"strategy": "alphalora"},
            "does not fit 6 layers of 1 to 8 experts, which is 6 to 48; change `max_experts`",
        ),
        ("60 experts", {}, "does not fit 6 layers of 1 to 8 experts, which is 6 to 48"),
        (
            "10 experts",
            {"expert_rank": 500},
            "`expert_rank` 500 gives a LoRA more parameters than the smallest matrix has; at most 192 fits",
        ),
        ("1%", {"strategy": "best"}, "strategy 'best': not one of uniform, random, mola, alphalora"),
        ("1%", {"min_rank": 9, "max_rank": 8}, "no rank is at least 9, at most 8 and a multiple of 1; change `min_rank`"),
        ("1%", {"min_rank": 40}, "too small for rank 40 at each of the 36 sites, which takes .*; `min_rank` 0 lets"),
        ("1%", {"rank_multiple": 8}, "too small for rank 8 at each of the 36 sites"),
        ("4%", {"rank_multiple": 8, "expert_rank": 4}, "`expert_rank` 4 is no multiple of `rank_multiple` 8"),
        (
            "1%",
            {"estimator": "farms"},
            r"`estimator` 'farms': site 'encoder.layer.0.*' has no such fit, it has clauset, hill, peak; see plan analyze",
        ),
        ("1%", {"granularity": "neither"}, "settings: granularity: Input should be 'model'"),
        ("missing.json", {}, "missing.json: No such file"),
        ("1%", {"strategy": "hot-experts"}, "'hot-experts': the sensitivity report knows no routed experts"),
        ("1%", {"rank_multiple": 8, "min_rank": 0, "strategy": "uniform"}, "budget '1%' buys no rank at any site"),
        ("lots", {}, "budget 'lots' cannot be read"),
        ("match rank 8", {"max_rank": 2}, "'match rank 8': no plan within these limits on ranks reaches that objective"),
        (
            "match rank 8",
            {"strategy": {"name": "mola", "settings": {"parity": True}}},
            "by their objective, and 'mola' has none here",
        ),
        ("rank 0", {}, "budget 'rank 0' is not a positive whole number"),
    ],
)
def test_bad_requests_are_one_clear_line(evidence, budget, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        allocate(budget, AllocationSettings.checked(settings, "settings"), **evidence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("spectra",), "strategy 'combined' needs `spectra` with measured values: make it with plan analyze"),
        (("sensitivity",), "strategy 'combined' needs `sensitivity` with measured values: make it with plan probe"),
        (("spectra", "sensitivity"), "nothing to allocate from: give `spectra`, `sensitivity` or `model`"),
    ],
)
def test_missing_evidence_is_named_with_what_makes_it(evidence, missing, message):
    with pytest.raises(InputError, match=message):
        allocate("1%", **{name: report for name, report in evidence.items() if name not in missing})


def test_budgets_by_rank_and_by_another_plan(evidence, tmp_path):
    plan = allocate("rank 8", AllocationSettings(strategy="uniform", max_experts=1), **evidence)
    assert {site.ranks for site in plan.sites} == {(8,)}
    assert plan.budget.spent == plan.budget.limit == 8 * sum(sum(site.shape) for site in plan.sites)
    plan.save(tmp_path / "other.json")
    same = allocate(str(tmp_path / "other.json"), AllocationSettings(max_experts=1), **evidence)
    assert same.budget.limit == plan.parameters
    assert same.budget.request == f"size of {tmp_path / 'other.json'}"


@pytest.mark.parametrize("granularity", ["model", "layer", "projection", "module"])
def test_granularity_is_who_shares_an_answer(evidence, granularity):
    plan = allocate("2%", AllocationSettings(strategy="sensitivity", granularity=granularity), **evidence)
    key = {
        "model": lambda site: 0,
        "layer": lambda site: parse_name(site.name).layer,
        "projection": lambda site: parse_name(site.name).projection,
        "module": lambda site: site.name,
    }[granularity]
    answers = {}
    for site in plan.sites:
        answers.setdefault(key(site), set()).add(site.ranks)
    assert all(len(ranks) == 1 for ranks in answers.values())
    assert len(answers) == {"model": 1, "layer": 6, "projection": 6, "module": 36}[granularity]
    assert plan.settings.granularity == granularity


def test_limits_on_ranks(evidence):
    plan = allocate("4%", AllocationSettings(rank_multiple=8, max_rank=32), **evidence)
    assert all(rank % 8 == 0 for site in plan.sites for rank in site.ranks)
    assert max(sum(site.ranks) for site in plan.sites) <= 32
    plan = allocate("20k", AllocationSettings(min_rank=0), **evidence)
    assert any(not site.ranks for site in plan.sites)


@pytest.mark.parametrize(("depth", "layers"), [(0.5, {3, 4, 5}), (1 / 3, {4, 5}), (0.01, {5}), (0.84, {0, 1, 2, 3, 4, 5})])
@pytest.mark.parametrize("strategy", ["uniform", "combined", "random"])
def test_depth_leaves_lower_layers_alone(evidence, depth, layers, strategy):
    plan = allocate("2%", AllocationSettings(strategy=strategy, depth=depth), **evidence)
    where = {parse_name(site.name).layer for site in plan.sites if site.ranks}
    assert where == layers
    assert all(bool(site.ranks) == (parse_name(site.name).layer in layers) for site in plan.sites)
    assert plan.parameters > 0.9 * plan.budget.limit
    if strategy != "uniform" and len(layers) < 6:
        said = f"The lowest {6 - len(layers)} of 6 layers get nothing and need no backward pass."
        texts = [note.text for note in plan.notes]
        assert said in texts
        assert not any("sites get nothing" in text for text in texts)


def test_the_least_that_matches_a_uniform_rank(evidence):
    """By its definition: it reaches the objective of that rank everywhere, and a hundredth less does not."""
    plan = allocate("match rank 4", AllocationSettings(max_experts=1), **evidence)
    weights = np.array([site.weight for site in plan.sites])
    prices = np.array([sum(site.shape) for site in plan.sites])
    worth = lambda ranks: float(weights @ (prices * np.log1p(ranks)))  # noqa: E731
    reached = worth(np.array([sum(site.ranks) for site in plan.sites]))
    target = worth(np.full(len(plan.sites), 4))
    assert reached >= target * (1 - 1e-9)
    assert plan.parameters <= 4 * prices.sum()
    smaller = allocate(str(int(0.99 * plan.budget.limit)), AllocationSettings(max_experts=1), **evidence)
    assert worth(np.array([sum(site.ranks) for site in smaller.sites])) < target
    even = allocate("match rank 4", AllocationSettings(strategy="uniform", max_experts=1), **evidence)
    assert {site.ranks for site in even.sites} == {(4,)}


def reversed_report(report):
    return report.model_copy(update={"sites": tuple(reversed(report.sites))})


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"random", "hot-experts"}))
def test_neither_the_order_of_sites_nor_the_scale_of_weights_changes_a_plan(evidence, strategy):
    plan = allocate("1%", AllocationSettings(strategy=strategy), **evidence)
    shuffled = {name: reversed_report(report) for name, report in evidence.items()}
    assert allocate("1%", AllocationSettings(strategy=strategy), **shuffled).sites == plan.sites
    fields = ("squared_gradient", "magnitude", "taylor", "fisher")
    scaled = [
        site.model_copy(update={
            field: tuple(Estimate(mean=1e-7 * one.mean, error=1e-7 * one.error) for one in getattr(site, field))
            for field in fields
        })
        for site in evidence["sensitivity"].sites
    ]  # fmt: skip
    report = evidence["sensitivity"].model_copy(update={"sites": tuple(scaled)})
    rescaled = allocate("1%", AllocationSettings(strategy=strategy), spectra=evidence["spectra"], sensitivity=report)
    assert [site.ranks for site in rescaled.sites] == [site.ranks for site in plan.sites]


@pytest.mark.parametrize("strategy", ["combined", "sensitivity", "random", "dr-lora"])
def test_more_weight_never_gets_less(evidence, strategy):
    plan = allocate("1%", AllocationSettings(strategy=strategy), **evidence)
    for one in plan.sites:
        for other in plan.sites:
            if one.shape == other.shape and one.weight > other.weight:
                assert sum(one.ranks) >= sum(other.ranks)


def test_a_plan_says_what_it_was_made_from(evidence):
    plan = allocate("1%", AllocationSettings(strategy={"name": "alphalora", "settings": {"beta": 2.0}}), **evidence)
    assert {source.kind: source.sha256 for source in plan.made_from} == {
        kind: report.sha256() for kind, report in evidence.items()
    }
    assert plan.settings.strategy.settings.beta == 2.0
    assert plan.settings.expert_rank
    assert plan.version
    again = allocate(plan.budget.request, plan.settings, **evidence)
    assert again == plan


@pytest.mark.parametrize(
    ("gradients", "trial", "seconds"), [(3.0, None, 3.0), (3.0, 4.5, 7.5), (math.nan, 4.5, 4.5), (math.nan, math.nan, 0.0)]
)
def test_a_plan_says_how_long_its_evidence_took_as_far_as_that_is_known(evidence, gradients, trial, seconds):
    report = evidence["sensitivity"]
    task = report.tasks[0].model_copy(update={"seconds": gradients})
    report = report.model_copy(update={"tasks": (task,)})
    if trial is not None:
        nothing = Estimate(mean=0.0, error=0.0)
        run = TrialRun(rank=2, steps=1, batch_size=1, learning_rate=1.0, examples=1, loss_reduction=nothing, seconds=trial)
        report = report.with_trial_run(run, {site.name: nothing for site in report.sites})
    plan = allocate("1%", spectra=evidence["spectra"], sensitivity=report)
    assert {source.kind: source.seconds for source in plan.made_from} == {"spectra": 0.0, "sensitivity": seconds}


@pytest.mark.parametrize("strategy", ["uniform", "combined", "sensitivity", "random"])
def test_every_strategy_plans_experts_with_one_lora_each(routed, strategy):
    plan = allocate("60k", AllocationSettings(strategy=strategy), **routed)
    assert plan.budget.spent <= plan.budget.limit
    assert all(len(site.ranks) <= 1 for site in plan.sites if site.routed)
    assert planner.mismatches(plan, routed["model"]) == []


@pytest.mark.parametrize(
    ("budget", "strategy"), [("4 experts", "uniform"), ("900k", {"name": "mola", "settings": {"parity": True}})]
)
def test_experts_cannot_be_prescribed_for_routed_experts(routed, budget, strategy):
    with pytest.raises(InputError, match="has routed experts of its own, which take one LoRA each"):
        allocate(budget, AllocationSettings(strategy=strategy), **routed)


def test_without_settings_the_strategy_is_combined(evidence):
    plan = allocate("1%", **evidence)
    assert plan.strategy == plan.settings.strategy.name == "combined"
    assert plan == allocate("1%", AllocationSettings(strategy="combined"), **evidence)


def test_a_plan_holds_the_settings_that_were_used_where_none_were_asked_for(evidence):
    asked = AllocationSettings(strategy="sensitivity")
    assert (asked.expert_rank, asked.max_experts, asked.granularity) == (None, None, None)
    plan = allocate("1%", asked, **evidence)
    # the budget pays a mean rank of 5.5: an average site is to have two experts, of the largest power of two
    assert (plan.settings.expert_rank, plan.settings.max_experts, plan.settings.granularity) == (2, 8, "module")
    assert max(len(site.ranks) for site in plan.sites) <= 8
    assert allocate("1%", plan.settings, **evidence) == plan


def test_a_site_shows_the_evidence_behind_its_weight(evidence, spectra_report, sensitivity):
    plan = allocate("1%", AllocationSettings(strategy="alphalora"), **evidence)
    for site in plan.sites:
        assert site.alpha == spectra_report.by_name()[site.name].fits["peak"].alpha  # as AlphaLoRA's authors do
        assert site.sensitivity == sensitivity.by_name()[site.name].per_parameter()[0].mean
        assert math.isnan(site.token_share)
        assert math.isnan(site.loss_reduction)
    assert np.mean([site.weight for site in plan.sites]) == pytest.approx(1.0)


def test_no_plan_is_better_than_its_bound(evidence):
    for strategy in ("uniform", "combined", "sensitivity"):
        optimum = allocate("1%", AllocationSettings(strategy=strategy), **evidence).optimum
        assert optimum.objective <= optimum.bound
        assert optimum.gap == (optimum.bound - optimum.objective) / optimum.bound
    assert allocate("20 experts", AllocationSettings(strategy="uniform"), **evidence).optimum is None


def test_a_models_checkpoint_is_evidence_enough_for_uniform(tiny_llama):
    plan = allocate("rank 2", AllocationSettings(strategy="uniform"), model=open_checkpoint(tiny_llama))
    assert [site.ranks for site in plan.sites] == [(2,)] * 14
    assert plan.made_from == ()
