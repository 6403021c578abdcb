"""Every row of the table of metrics: where it applies, what it is, and how tasks are pooled."""

import math

import pytest

from trainer.evaluation.metrics import METRICS, Answers, geometric_mean, pooled, scores, weighted_mean

CLASSES = Answers(task="classification", losses=[1.0, 2.0, 3.0, 6.0], picks=[(0, 0), (0, 1), (1, 1), (2, 1)])
TEXT = Answers(task="causal", losses=[1.0, 3.0])
WRITTEN = Answers(task="causal", losses=[1.0, 3.0], generated=[(" a b", "a b "), ("a", "A")])
QUESTIONS = Answers(task="multiple-choice", losses=[0.5, 1.5], picks=[(0, 0), (1, 2)], normalised=[(0, 0), (2, 2)])
# Per class F1 = 2 hits / (picked + right): 2/3 of class 0, 2/4 of class 1, 0 of class 2, which was picked though never right.
EXPECTED = {
    "accuracy": {"CLASSES": 0.5, "QUESTIONS": 0.5},
    "acc_norm": {"QUESTIONS": 1.0},
    "f1": {"CLASSES": (2 / 3 + 2 / 4 + 0) / 3},
    "exact_match": {"WRITTEN": 0.5},
    "perplexity": {"TEXT": math.exp(2.0), "WRITTEN": math.exp(2.0)},
    "loss": {"CLASSES": 3.0, "TEXT": 2.0, "WRITTEN": 2.0, "QUESTIONS": 1.0},
}
ALL = {"CLASSES": CLASSES, "TEXT": TEXT, "WRITTEN": WRITTEN, "QUESTIONS": QUESTIONS}


def test_the_names_of_the_metrics_in_the_order_in_which_they_are_shown():
    assert list(METRICS) == list(EXPECTED)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_its_formula_where_it_applies_and_none_elsewhere(name):
    found = {kind: METRICS[name].compute(answers) for kind, answers in ALL.items()}
    assert {kind: value for kind, value in found.items() if value is not None} == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("kind", ALL)
def test_scores_are_the_metrics_that_apply(kind):
    assert scores(ALL[kind]) == pytest.approx({name: found[kind] for name, found in EXPECTED.items() if kind in found})


@pytest.mark.parametrize("task", ["classification", "causal", "multiple-choice"])
def test_a_loss_that_cannot_be_measured_stays_nan(task):
    found = scores(Answers(task=task, losses=[1.0, math.nan], picks=[(0, 0), (0, 1)] if task != "causal" else ()))
    assert math.isnan(found["loss"])
    if task == "causal":
        assert math.isnan(found["perplexity"])
    else:
        assert found["accuracy"] == 0.5


def test_perplexity_stays_a_number_however_large_the_loss():
    assert METRICS["perplexity"].compute(Answers(task="causal", losses=[1e6])) == math.exp(700)


def test_f1_agrees_with_accuracy_where_everything_is_right_and_with_zero_where_nothing_is():
    right = Answers(task="classification", losses=[0.0] * 3, picks=[(0, 0), (1, 1), (4, 4)])
    wrong = Answers(task="classification", losses=[0.0] * 2, picks=[(0, 1), (1, 0)])
    assert [METRICS["f1"].compute(answers) for answers in (right, wrong)] == [1.0, 0.0]


def test_means_are_over_examples_not_over_tasks():
    assert weighted_mean([1.0, 4.0], [3, 1]) == 1.75
    assert geometric_mean([2.0, 8.0], [1, 1]) == pytest.approx(4.0)
    assert geometric_mean([2.0, 8.0], [2, 1]) == pytest.approx(2 * 4 ** (1 / 3))


def test_tasks_are_pooled_by_each_metrics_own_mean():
    one, other = ({"loss": 1.0, "perplexity": math.e, "accuracy": 1.0}, {"loss": 4.0, "perplexity": math.exp(4), "accuracy": 0.0})
    found = pooled([one, other], [3, 1])
    assert found == pytest.approx({"accuracy": 0.75, "perplexity": math.exp(1.75), "loss": 1.75})
    assert list(found) == ["accuracy", "perplexity", "loss"]  # the table's order


def test_only_what_all_tasks_have_is_pooled_and_nan_stays_nan():
    assert pooled([{"loss": 1.0, "accuracy": 1.0}, {"loss": 3.0}], [1, 1]) == {"loss": 2.0}
    assert pooled([{}, {"loss": 1.0}], [1, 1]) == {}
    found = pooled([{"loss": math.nan, "perplexity": math.nan}, {"loss": 1.0, "perplexity": math.e}], [1, 1])
    assert math.isnan(found["loss"])
    assert math.isnan(found["perplexity"])


def test_more_is_better_unless_the_row_says_otherwise():
    assert {name: metric.sign for name, metric in METRICS.items()} == {
        "accuracy": 1, "acc_norm": 1, "f1": 1, "exact_match": 1, "perplexity": -1, "loss": -1
    }  # fmt: skip


def test_what_a_study_may_compare_has_a_unit():
    compared = {name: (metric.unit, metric.scale) for name, metric in METRICS.items() if metric.compared}
    assert compared == {
        "accuracy": ("points", 100), "acc_norm": ("points", 100), "f1": ("points", 100), "exact_match": ("points", 100),
        "loss": ("nats per token", 1),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "shown"), [("accuracy", "12.3%"), ("perplexity", "0.12"), ("loss", "0.123")])
def test_a_table_shows_each_in_its_form(name, shown):
    assert format(0.1234, METRICS[name].form) == shown
