"""Runs, evaluations and studies as people read them."""

import math

import numpy as np

from tests.trainer.study.examples import files_of, scores_of, study_of
from tests.trainer.views.examples import POINTS, evaluation_of, health, run_of
from trainer import TrainSettings
from trainer.evaluation.metrics import METRICS
from trainer.report import LogPoint
from trainer.study.differences import adjusted
from trainer.study.report import BASELINE, Binding, Size
from trainer.views.tables import evaluation_tables, load_tables, run_summary, score_table, study_tables


def cells(table):
    """Heading -> its cells."""
    return {column.header: list(column.cells) for column in table.columns}


def test_a_run_is_summed_up_in_two_lines():
    assert run_summary(run_of()).splitlines() == [
        "trained 1,234 adapter and 20 head parameters for 4 steps on 1,200 texts; loss 4.000 -> 1.000",
        "1,500 tokens/s, 12 s; peak memory 3 MiB",
    ]


def test_what_was_cut_left_out_packed_watched_and_noted_is_said():
    report = run_of(
        truncated=30, dropped=2, settings=TrainSettings(packing=True, max_length=16), evaluations=POINTS,
        routers=(health(0.5, 0.5, support=2.0), health(0.1, 0.9, support=1.0)), notes=("one", "two"),
    )  # fmt: skip
    assert run_summary(report).splitlines() == [
        "trained 1,234 adapter and 20 head parameters for 4 steps on 1,200 rows of packed texts, 30 of them cut to 16 tokens,"
        " 2 left out because nothing to learn remained; loss 4.000 -> 1.000",
        "1,500 tokens/s, 12 s; peak memory 3 MiB",
        "best held-out loss 1.500 at step 2, last 1.750",
        "routing: 1.5 of 2.0 experts do the work in the mean router",
        "note: one",
        "note: two",
    ]


def test_losses_are_means_of_a_tenth_of_the_run_and_a_resumed_one_is_not_timed():
    curve = tuple(LogPoint(step=step, loss=float(step), learning_rate=0.0) for step in range(1, 31))
    summary = run_summary(run_of(curve=curve, seconds=math.nan, tokens_per_second=math.nan))
    assert "loss 2.000 -> 29.000" in summary
    assert summary.splitlines()[1] == "resumed; peak memory 3 MiB"


def test_scores_have_a_column_for_each_metric_that_somebody_has():
    table = score_table({"fine-tuned": {"accuracy": 0.75, "loss": 1.0}, "majority class": {"accuracy": 0.5}}, 1200)
    assert cells(table) == {"answer": ["fine-tuned", "majority class"], "accuracy": ["75.0%", "50.0%"], "loss": ["1.000", ""]}
    assert table.title == "1,200 held-out texts"
    assert score_table({}, 3, "task").title == "task: 3 held-out texts"


def test_columns_follow_the_table_of_metrics_and_what_is_nan_is_shown_so():
    scores = dict.fromkeys(reversed(METRICS), math.nan)
    table = score_table({"fine-tuned": scores}, 1)
    assert [column.header for column in table.columns][1:] == ["accuracy", "acc norm", "f1", "exact match", "perplexity", "loss"]
    assert cells(table)["loss"] == ["nan"]


def test_an_evaluation_of_several_tasks_has_a_table_for_each():
    scores = {"loss": 1.0}
    whole, one, two = evaluation_tables(evaluation_of(scores, scores, one=(3, scores), two=(5, scores)))
    assert [table.title for table in (whole, one, two)] == [
        "1,000 held-out texts", "one: 3 held-out texts", "two: 5 held-out texts"
    ]  # fmt: skip
    assert cells(whole)["answer"] == ["fine-tuned", "untrained"]
    assert cells(one)["answer"] == ["fine-tuned"]
    assert len(evaluation_tables(evaluation_of(scores, one=(3, scores)))) == 1


def test_further_answers_stand_behind_the_fine_tuned_models():
    (table,) = evaluation_tables(evaluation_of({"loss": 1.0}, majority={"loss": 3.0}), {"head": {"loss": 2.0}})
    assert cells(table) == {"answer": ["fine-tuned", "head", "majority class"], "loss": ["1.000", "2.000", "3.000"]}


BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])


def test_a_study_shows_every_arm_on_every_test():
    study = study_of({BASELINE: {"one": BASE, "two": BASE}, "up": {"one": BASE + 0.05 + STEADY, "two": BASE}}, "accuracy")
    differences, costs = study_tables(study)
    assert differences.title == "model: 3 paired seeds, difference from uniform LoRA"
    assert "* below 0.05" in differences.caption
    shown = cells(differences)
    assert list(shown) == ["test", "plan", "parameters", "rate", "mean", "difference", "p"]
    assert shown["test"] == ["one, accuracy", "", "two, accuracy", "", "all tests (accuracy), accuracy", ""]
    assert shown["plan"] == [BASELINE, "up"] * 3
    assert shown["parameters"] == ["1,012", "1,002"] * 3
    assert shown["mean"][:2] == ["60.00", "65.00"]
    assert shown["difference"][:4] == ["", "+5.00 (+4.75 to +5.25)", "", "+0.00 (nothing varies)"]
    assert shown["p"][1].endswith(" *")
    assert shown["p"][3] == ""
    assert cells(costs)["diverged"] == ["0 of 2", "0 of 2"]


def test_losses_have_their_own_digits():
    losses = np.array([3.006, 3.007, 3.004])
    shown = cells(study_tables(study_of({BASELINE: {"t": losses}, "less": {"t": losses - 0.0125 + STEADY}}, "loss"))[0])
    assert shown["mean"] == ["3.006", "2.993"]
    assert shown["difference"] == ["", "-0.013 (-0.015 to -0.010)"]
    assert shown["rate"] == ["0.001", "0.001"]


def test_sizes_stand_before_the_plans_and_a_reader_goes_up():
    names, losses = ["small", BASELINE], {"small": {"t": BASE + 0.05 + STEADY}, BASELINE: {"t": BASE}}
    found = adjusted([scores_of(losses, "loss").difference(*names, "t", files_of(["t"], "loss"), "loss")])
    sizes = tuple(
        Size(arm=name, parameters=size, mean=mean) for name, size, mean in zip(names, (250, 1000), (0.65, 0.6), strict=True)
    )
    binding = Binding(test="t", measure="loss", sizes=sizes, differences=tuple(found), binds=True, enough=1000, possible=0.05)
    study = study_of({BASELINE: {"t": BASE}}, "loss", binding=binding, differences=())
    (table,) = study_tables(study)
    assert table.title == "model: uniform LoRA by size, loss on t"
    shown = cells(table)
    assert shown["parameters"] == ["250", "1,000"]
    assert shown["from the next smaller size"] == ["", "-0.050 (-0.052 to -0.048)"]


def test_loads_show_the_most_uneven_routers_and_what_was_turned_away():
    uneven = health(0.9, 0.1, support=1.2, site="model.layers.3.self_attn.q_proj")
    uneven = uneven.model_copy(update={"learned_shares": (1.0, 0.0), "dropped": 0.5, "unserved": 0.25})
    base = health(*[1 / 10] * 10, support=9.0, site="model.layers.0.mlp.experts")
    base = base.model_copy(update={"dropped": math.nan, "unserved": math.nan})
    even = [health(0.5, 0.5, support=2.0, site=f"model.layers.{layer}.self_attn.k_proj") for layer in range(9)]
    (table,) = load_tables(run_of(routers=(*even, base, uneven)))
    assert "the 8 most uneven of 11 routers" in table.title
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows[0] == ("3 q_proj", "0: 100% (90%), 1: 0% (10%)", "1.2 of 2", "50.0%", "25.0%")
    assert rows[1][0] == "0 experts"
    assert rows[1][1].endswith(" and 2 more")
    assert rows[1][3:] == ("", "")
    assert len(rows) == 8
    assert load_tables(run_of()) == []
    assert "; 25.0% of picks were turned away, 12.5% of tokens got no expert" in run_summary(run_of(routers=(uneven, even[0])))
    assert ", 64 of the base's routers for 4 steps" in run_summary(run_of(base_router_parameters=64))
