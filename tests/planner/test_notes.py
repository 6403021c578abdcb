"""What a plan says about itself: every row of the table with a plan that it applies to, and one that it does not."""

import re
from collections import Counter
from pathlib import Path

import pytest

from planner import AllocationSettings, allocate
from planner.notes import RULES, notes
from planner.plan import Note
from planner.sensitivity.report import Estimate
from planner.strategies.demand import Demand
from spectra import open_checkpoint
from spectra.checkpoint.names import parse_name
from tests.planner.examples import evidence_of, planned, problem_of, site_of

ROOT = Path(__file__).parents[2]


def said(plan):
    """What a note is about -> its text."""
    return {note.about: note.text for note in plan.notes}


def test_a_plan_that_is_uniform_says_so(evidence):
    plan = allocate("41472", AllocationSettings(strategy="alphalora"), **evidence)
    assert plan.notes == (
        Note(
            about="uniform after rounding",
            text="After rounding, this plan is the uniform one: the evidence changes nothing at this budget.",
        ),
    )


def test_a_budget_that_cannot_be_spent_says_so(tiny_llama):
    plan = allocate("900%", AllocationSettings(strategy="uniform", max_experts=1), model=open_checkpoint(tiny_llama))
    assert re.match(r"\d+% of the budget is left: ", plan.notes[0].text)


def test_a_plan_that_starves_modules_says_what_that_cost(evidence):
    plan = allocate("2%", AllocationSettings(strategy="lora-smoe", max_experts=1), sensitivity=evidence["sensitivity"])
    starved = sum(not site.ranks for site in plan.sites)
    assert starved
    assert plan.notes[-1].text == (
        f"{starved} of 36 sites get nothing, though there is enough for rank 1 at each. In our study of a classifier such plans"
        " lost two points of accuracy to uniform LoRA on average."
    )
    mild = allocate("2%", **evidence)
    assert said(mild)["no trial run"].startswith(
        "Made without a trial run. On dense models in our study, no strategy without one beat uniform LoRA at equal size."
    )


def test_a_depth_rule_says_so(spectra_report):
    plan = allocate("4%", AllocationSettings(strategy="alphalora", max_experts=1), spectra=rising(spectra_report))
    assert re.fullmatch(
        r"After rounding, this plan is nearly a rule of depth: more with depth \(rank correlation \+\d.\d\d\)\.",
        said(plan)["nearly a depth rule"],
    )


def rising(report):
    """Alphas that grow with depth, whoever fits them."""

    def risen(site):
        alpha = 2.0 + (parse_name(site.name).layer if parse_name(site.name) else 0)
        fits = {name: fit.model_copy(update={"alpha": alpha}) for name, fit in site.fits.items()}
        return site.model_copy(update={"alpha": alpha, "fits": fits})

    return report.model_copy(update={"sites": tuple(map(risen, report.sites))})


DENSE = [f"layers.{layer}.q" for layer in range(5)]


def about(ranks, *, names=DENSE, strategy="sensitivity", budget=None, sites=None, **options):
    """The notes on a plan of these ranks, by what they are about; with a budget that it just spends."""
    evidence = evidence_of(*(sites or map(site_of, names)), shapes_unsure=options.pop("shapes_unsure", False))
    plan = [planned(name, given) for name, given in zip(names, ranks, strict=True)]
    demand = Demand(weights=(1.0,) * len(plan))
    spent = str(max(1, sum(site.parameters for site in plan)))
    problem = problem_of(evidence, budget or spent, demand=demand, strategy=strategy, **options)
    return {note.about: note for note in notes(problem, plan)}


MIXED = [(2,), (5,), (1,), (4,), (2,)]


def test_an_ordinary_plan_of_an_old_strategy_says_only_what_our_study_found():
    found = about(MIXED)
    assert list(found) == ["no trial run"]
    assert found["no trial run"].link == "docs/experiments"
    assert about([(2,)] * 5, strategy="uniform") == {}


@pytest.mark.parametrize(("spent", "share"), [(0.91, None), (0.89, "11%"), (0.5, "50%")])
def test_what_is_left_of_a_budget_is_told_from_a_tenth_on(spent, share):
    budget = str(round(14 * 24 / spent))
    found = about(MIXED, budget=budget)
    assert ("budget left" in found) == (share is not None)
    if share:
        assert found["budget left"].text == (
            f"{share} of the budget is left: one more step does not fit, or a limit on ranks is reached."
            " `max_experts` 1 with `granularity` module gives the smallest steps."
        )


def test_shapes_from_a_table_are_unsure():
    assert "which side is the input. Run `plan check`." in about(MIXED, shapes_unsure=True)["shapes unsure"].text


def test_sites_left_out_are_counted_and_take_the_place_of_the_study():
    found = about([(), (5,), (), (4,), (2,)])
    assert list(found) == ["modules left out"]
    assert found["modules left out"].text.startswith("2 of 5 sites get nothing, though")


SCARCE = [(), (2,), (), (1,), ()]


@pytest.mark.parametrize(
    ("strategy", "tried", "says"),
    [
        ("combined", True, "such plans beat random modules by 0.017"),
        ("combined", False, "no such plan made without a trial run beat random modules"),
        ("sensitivity", True, "no such plan made without a trial run beat random modules"),
        ("random", True, None),
    ],
)
def test_where_modules_are_chosen_for_want_of_budget_the_study_says_who_chose_well(strategy, tried, says):
    found = about(SCARCE, strategy=strategy, sites=measured(1.0, 0.1) if tried else None)
    assert ("modules chosen" in found) == (says is not None)
    if says:
        assert list(found) == ["modules chosen"]
        assert found["modules chosen"].text.startswith("3 of 5 sites get nothing: the budget is below rank 1 everywhere. On")
        assert says in found["modules chosen"].text
        assert found["modules chosen"].link == "docs/experiments/where-capacity-goes.md"


def measured(mean, error):
    return [site_of(name, loss_reduction=(Estimate(mean=mean, error=error),)) for name in DENSE]


def test_a_trial_run_within_its_noise_says_that_it_told_nothing():
    noise, clear = (about(MIXED, strategy="combined", sites=measured(1.0, error)) for error in (5.0, 0.1))
    assert "no more than noise" in noise["trial run within noise"].text
    assert list(clear) == ["little to win on dense models"]
    assert "level with uniform LoRA at equal size, or a little ahead" in clear["little to win on dense models"].text
    assert list(about(MIXED, sites=measured(1.0, 0.1))) == ["no trial run"]  # another strategy does not use it


@pytest.mark.parametrize(("strategy", "whose"), [("combined", "such plans"), ("sensitivity", "plans of `combined`")])
def test_on_routed_experts_the_study_found_something_to_win(strategy, whose):
    names = [f"layers.{layer}.experts.{expert}.up" for layer in range(2) for expert in range(2)]
    found = about([(2,), (5,), (1,), (4,)], names=names, strategy=strategy)
    assert list(found) == ["routed experts"]
    assert found["routed experts"].text.startswith(f"On mixture-of-experts models in our study, {whose} beat uniform LoRA")


def test_mixtures_are_counted():
    found = about([(2, 2), (5,), (1, 1, 1), (4,), (2,)], strategy="uniform")
    assert found["mixtures"].text.startswith("2 of 5 sites are mixtures with routers.")


@pytest.mark.parametrize(
    ("ranks", "words"), [([1, 2, 3, 5, 7], "more with depth (rank correlation +1.00)"),
                         ([7, 5, 3, 2, 1], "less with depth (rank correlation -1.00)"), ([1, 7, 2, 3, 5], None)]
)  # fmt: skip
def test_a_rule_of_depth_is_recognised_either_way(ranks, words):
    found = about([(rank,) for rank in ranks])
    assert ("nearly a depth rule" in found) == (words is not None)
    if words:
        assert found["nearly a depth rule"].text == f"After rounding, this plan is nearly a rule of depth: {words}."
    assert "nearly a depth rule" not in about([(rank,) for rank in ranks], strategy="mola")


def test_several_stacks_or_few_layers_are_no_rule_of_depth():
    names = [f"{stack}.{layer}.q" for stack in ("dec", "enc") for layer in range(4)]
    assert "nearly a depth rule" not in about([(rank,) for rank in range(1, 9)], names=names)
    assert "nearly a depth rule" not in about([(1,), (2,), (3,)], names=DENSE[:3])


def test_layers_that_depth_leaves_out_are_told_apart_from_starved_sites():
    found = about([(), (), (1,), (4,), (2,)], depth=0.6)
    assert found["lower layers left out"].text == "The lowest 2 of 5 layers get nothing and need no backward pass."
    assert "modules left out" not in found
    assert "modules left out" in about([(), (), (), (4,), (2,)], depth=0.6)


def test_every_row_is_about_something_else_and_none_is_longer_than_a_paragraph():
    assert max(Counter(rule.about for rule in RULES).values()) == 1
    assert {rule.link.partition("/")[0] for rule in RULES} == {"", "docs"}
    assert all((ROOT / rule.link).exists() for rule in RULES if rule.link)
