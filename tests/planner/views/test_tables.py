"""Plans and sensitivity reports as people read them."""

import math

import pytest

from planner import AllocationSettings, allocate
from planner.plan import Note, Optimum, TrainingHints
from planner.sensitivity.report import Estimate, ExpertUsage, TrialRun
from planner.views.tables import (
    FOLDED,
    difference_table,
    format_ranks,
    most_used,
    number,
    plan_summary,
    plan_table,
    sensitivity_tables,
    stability_lines,
    trial_run_lines,
)
from spectra import InputError
from tests.planner.examples import exactly, plan_of, planned, sensitivity_of


def columns(table):
    return {str(column.header): [str(entry) for entry in column.cells] for column in table.columns}


PLAN = plan_of(
    planned("model.layers.0.self_attn.q_proj", (4, 4), weight=1.5, alpha=3.456, sensitivity=3e-6),
    planned("model.layers.0.mlp.up_proj", (3, 2), weight=1.0, sensitivity=1e-6),
    planned("model.layers.1.self_attn.q_proj", (), weight=0.5, alpha=2.0, sensitivity=2e-6),
    strategy="uniform",
)


def test_a_plans_rows_hold_ranks_cost_a_bar_and_the_evidence():
    table = plan_table(PLAN)
    assert table.title == "plan for model: uniform, budget 344"
    assert table.caption == (
        "3 x 2: three experts of rank 2; g/mean: squared-gradient per parameter, mean of the projection's sites = 1"
    )
    assert columns(table) == {
        "layer": ["0", "0", "1"], "site": ["q_proj", "up_proj", "q_proj"], "ranks": ["2 x 4", "3,2", "-"],
        "params": ["208", "136", "0"], "total rank": ["█" * 10 + " 8", "█" * 6 + " 5", " 0"], "weight": ["1.50", "1.00", "0.50"],
        "alpha": ["3.46", "", "2.00"], "g/mean": ["1.20", "1.00", "0.80"],
    }  # fmt: skip


def test_token_shares_and_a_trial_run_have_columns_of_their_own():
    known = {"token_share": 0.25, "loss_reduction": 3.0}
    plan = plan_of(planned("layers.0.experts.0.up", (2,), **known), planned("layers.0.q", (2,), loss_reduction=1.0))
    table = plan_table(plan)
    assert table.caption.endswith("; trial: share of the trial run's loss reduction")
    assert columns(table)["tokens"] == ["25%", ""]
    assert columns(table)["trial"] == ["75.0%", "25.0%"]


def test_many_routed_experts_are_folded_into_the_one_that_got_most():
    experts = [planned(f"layers.0.mlp.experts.{expert}.up", (1 + expert % 3,)) for expert in range(FOLDED + 1)]
    assert plan_table(plan_of(*experts[:FOLDED])).row_count == FOLDED
    folded = columns(plan_table(plan_of(planned("layers.0.q", (1,)), *experts)))
    assert (folded["site"], folded["ranks"]) == (["q", f"experts.2.up +{FOLDED}"], ["1", "3"])
    assert plan_table(plan_of(*experts)).caption.endswith("; +7: seven more experts, none with more rank")


@pytest.mark.parametrize(("ranks", "text"), [((), "-"), ((4,), "4"), ((2, 2, 2), "3 x 2"), ((3, 3, 2), "3,3,2")])
def test_ranks_are_written_as_people_read_them(ranks, text):
    assert format_ranks(ranks) == text


def test_an_unknown_number_is_nothing():
    assert (number(math.nan, ".2f"), number(1.005, ".1f")) == ("", "1.0")


def test_a_summary_says_what_is_adapted_what_it_costs_and_how_good_it_is():
    optimum = Optimum(utility="log1p", objective=99.0, bound=100.0, gap=0.01)
    assert plan_summary(PLAN.model_copy(update={"optimum": optimum})).splitlines() == [
        "2 of 3 sites adapted, 2 of them as mixtures; 4 LoRA experts of rank 2 to 4, at most 2 per token",
        "344 trainable parameters, routers included (0.34% of 100,000)",
        "budget: 344 of 344 parameters spent; mean rank 6.5 of the 2 adapted sites",
        "within 1.000% of the best possible value of its objective",
    ]
    assert plan_summary(plan_of(planned("layers.0.q", (2,)))).splitlines()[0] == "1 of 1 sites adapted, one LoRA of rank 2 each"
    assert plan_summary(PLAN.without_adapters()).splitlines()[0] == "0 of 3 sites adapted"


def test_a_summary_says_how_to_train_if_the_plan_does():
    hints = TrainingHints(learning_rate=0.002, alpha=4.0, init="svd", found="successive halving, 190 steps in all")
    last = plan_summary(PLAN.model_copy(update={"training": hints})).splitlines()[-1]
    assert last == "to be trained with learning rate 0.002, alpha 4.0, init svd; successive halving, 190 steps in all"


def test_a_summary_prints_two_notes_and_counts_the_rest():
    notes = tuple(Note(about=word, text=f"Sentence {word}.", link="docs/x" if word == "b" else "") for word in "abcd")
    lines = {count: plan_summary(PLAN.model_copy(update={"notes": notes[:count]})).splitlines()[3:] for count in range(5)}
    assert lines[0] == []
    assert lines[2] == ["note: Sentence a.", "note: Sentence b. (docs/x)"]
    assert lines[3][2:] == ["1 more note in the plan file"]
    assert lines[4][2:] == ["2 more notes in the plan file"]


def test_a_difference_shows_both_ranks_where_they_differ():
    other = plan_of(
        planned("model.layers.0.self_attn.q_proj", (4, 2)), planned("model.layers.0.mlp.up_proj", (3, 2)),
        planned("model.layers.1.self_attn.q_proj", (2,)), strategy="random",
    )  # fmt: skip
    table = difference_table(PLAN, other)
    assert table.title == "uniform -> random: equal size; 15% of the rank is allocated differently"  # 2 of 13
    assert columns(table) == {
        "layer": ["0", "1"], "site": ["q_proj", "q_proj"], "uniform": ["2 x 4", "-"], "random": ["4,2", "2"],
        "difference": ["-2", "+2"],
    }  # fmt: skip


def test_plans_of_unequal_size_say_by_how_much():
    one, other = plan_of(planned("layers.0.q", (4,))), plan_of(planned("layers.0.q", (3,)))
    assert difference_table(one, other).title == (
        "combined -> combined: 96 and 72 parameters (-24); 14% of the rank is allocated differently"
    )
    assert "14% of the rank" in difference_table(other, one).title  # 1 of 7, from either side


def test_plans_whose_names_differ_by_a_prefix_are_compared_site_by_site():
    one, other = plan_of(planned("layers.0.q", (4,))), plan_of(planned("model.layers.0.q", (2, 2)))
    assert "; 0% of the rank" in difference_table(one, other).title
    assert "; 33% of the rank" in difference_table(one, plan_of(planned("model.layers.0.q", (2,)))).title


def test_a_site_that_the_other_plan_lacks_gets_nothing_there_and_equal_plans_say_so():
    other = plan_of(planned("bert.layers.0.q", (2,)))
    one = plan_of(planned("layers.0.q", (2,)), planned("layers.1.q", (5,)))
    assert columns(difference_table(one, other))["difference"] == ["-5"]
    assert difference_table(one, one).title == "the two plans give every site the same"
    assert difference_table(one, one).row_count == 0
    with pytest.raises(InputError, match="a plan for model and one for model have no site in common"):
        difference_table(one, plan_of(planned("layers.0.v", (2,))))


def test_experts_have_rows_and_layers_of_theirs(routed):
    plan = allocate("60k", **routed)
    assert plan_table(plan).row_count == len(plan.sites)
    gradients, routing = sensitivity_tables(routed["sensitivity"])
    assert (gradients.row_count, routing.row_count) == (2, 2)
    other = allocate("60k", AllocationSettings(strategy="uniform"), **routed)
    assert 0 < difference_table(plan, other).row_count <= len(plan.sites)


def test_the_most_chosen_experts_are_named_and_the_rest_counted():
    names = [f"layers.0.experts.{expert}.up" for expert in range(11)]
    shares = [expert / 20 for expert in range(11)]
    usage = {
        name: (ExpertUsage(token_share=share, mean_weight=0.5, all_share=0.25),)
        for name, share in zip(names, shares, strict=True)
    }
    *_, table = sensitivity_tables(sensitivity_of({key: [1.0] for key in names}, usage=usage))
    found = columns(table)
    assert found["layer"] == ["0"]
    assert found["experts"][0].startswith("10: 50% (25%), 9: 45% (25%), ")
    assert found["experts"][0].endswith("3: 15% (25%) and 3 more")
    assert found["chosen by no learned token"] == ["1 of 11"]
    assert most_used({0: (0.75, math.nan), 1: (0.25, math.nan)}) == "0: 75%, 1: 25%"


REPORT = sensitivity_of({"layers.0.q": [8.0, 0.0], "layers.0.up": [16.0, 8.0], "layers.1.q": [8.0, 8.0]}, names=("a", "b"))
RUN = TrialRun(rank=2, steps=30, batch_size=8, learning_rate=1e-3, examples=64, loss_reduction=Estimate(mean=0.5, error=0.2))


def test_gradients_stand_relative_to_the_mean_site():
    (table,) = sensitivity_tables(REPORT)
    assert table.title == "sensitivity: squared gradient per parameter, mean site = 1"
    assert columns(table) == {"layer": ["0", "1"], "q": ["0.5", "1"], "up": ["1.5", ""]}  # 4, 12 and 8 over both tasks


def tried(report, values, run=RUN):
    return report.with_trial_run(run, dict(zip((site.name for site in report.sites), map(exactly, values), strict=True)))


def test_a_trial_run_adds_a_table_and_a_line():
    report = tried(sensitivity_of({"layers.0.q": [8.0], "layers.0.up": [4.0]}), [3.0, 1.0])
    table = sensitivity_tables(report)[1]
    assert table.title == "trial run: loss reduction per parameter of an adapter, mean site = 1"
    assert columns(table) == {"layer": ["0"], "q": ["1.5"], "up": ["0.5"]}
    assert trial_run_lines(report) == [
        "task: a trial run of 30 steps took 0.500 +- 0.200 nats off the loss of 64 held-out examples"
    ]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"gap": 0.02, "points": 9, "agreement": 0.814, "seconds": 1234.5},
         "; modules account for 98% of it; two halves of the examples rank modules alike by 0.81 (Spearman); 1,234 s"),
        ({"gap": 0.02, "points": 9, "seconds": 12.0}, "; modules account for 98% of it; 12 s"),
        ({"gap": 0.27, "points": 39, "agreement": 0.5, "seconds": 60.0},
         "; INCOMPLETE: 39 points miss 27% of it, so `combined` refuses to plan from it; two halves of the examples rank modules"
         " alike by 0.50 (Spearman); 60 s"),
        ({"gap": 7.0, "points": 39, "seconds": 60.0, "loss_reduction": Estimate(mean=0.1, error=0.2)},
         ", no more than noise: more steps or a higher rate may tell more; modules account for 0% of it; 60 s"),
    ],
)  # fmt: skip
def test_a_trial_run_says_how_much_of_it_is_accounted_for_how_reliably_and_in_what_time(known, said):
    (line,) = trial_run_lines(tried(sensitivity_of({"layers.0.q": [8.0]}), [1.0], RUN.model_copy(update=known)))
    assert line.partition(" held-out examples")[2] == said


def test_a_trial_run_of_noise_or_none_says_what_would_tell_more():
    noise = RUN.model_copy(update={"loss_reduction": Estimate(mean=0.5, error=0.25)})
    (line,) = trial_run_lines(tried(sensitivity_of({"layers.0.q": [8.0]}), [1.0], noise))
    assert line.endswith("held-out examples, no more than noise: more steps or a higher rate may tell more")
    assert trial_run_lines(REPORT)[0] == (
        "a: no trial run, so learning rate and batch size were not used; `trial_steps` 30 makes one"
    )


def test_stability_is_told_of_the_largest_samples():
    curve = [{"examples": 4, "rank_correlation": 0.5, "overlap": 0.4}, {"examples": 8, "rank_correlation": 0.96, "overlap": 0.8}]
    report = sensitivity_of({"layers.0.q": [1.0]}, stability=curve)
    assert stability_lines(report) == (
        "task: 8 examples; rankings from two samples of 8 agree: Spearman 0.96, top-half overlap 0.80 (1 = identical, 0 ="
        " chance); not yet stable"
    )
    stable = report.model_copy(update={"tasks": (report.tasks[0].model_copy(update={"stable_from": 8}),)})
    assert stability_lines(stable).endswith("; stable from 8 examples")
    assert stability_lines(REPORT).splitlines() == [
        f"{task}: 8 examples; 8 or more would tell how stable the ranking is" for task in "ab"
    ]
