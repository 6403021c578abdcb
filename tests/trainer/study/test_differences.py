"""What is paired with what, and what is adjusted together."""

import math

import numpy as np
import pytest

from tests.trainer.study.examples import files_of, outcome_of, scores_of
from trainer.study.differences import Scores, against, beside, between, groups, measures_of
from trainer.study.report import BASELINE, TestFile

BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])


def test_files_of_unlike_measures_are_never_pooled():
    tests = [*files_of(["a", "b"], "loss"), *files_of(["c"], "accuracy")]
    assert {name: [test.name for test in files] for name, files in groups(tests).items()} == {
        "a": ["a"], "b": ["b"], "c": ["c"], "all tests (loss)": ["a", "b"],
    }  # fmt: skip


def test_a_file_with_right_answers_is_measured_by_them_and_shows_the_loss_beside():
    assert measures_of(outcome_of({"t": 0.5}, "accuracy"), "t") == ("accuracy", "loss")
    assert measures_of(outcome_of({"t": 0.5}, "loss"), "t") == ("loss", "")


def test_a_difference_is_paired_by_seed():
    scores = scores_of({BASELINE: {"t": BASE}, "up": {"t": BASE + 0.05 + STEADY}}, "loss")
    own, up = against(scores, [BASELINE, "up"], BASELINE, files_of(["t"], "loss"))
    assert up.difference == pytest.approx(0.05)
    assert up.error == pytest.approx(0.001 / math.sqrt(3))
    assert up.mean == pytest.approx(0.65)
    assert up.worse
    assert own.difference == 0
    assert math.isnan(own.low)
    assert math.isnan(own.p)


def test_seeds_that_one_of_two_arms_has_not_finished_do_not_count():
    scores = scores_of({BASELINE: {"t": BASE}, "up": {"t": BASE + 0.05}}, "loss")
    scores.add("wild", 0, outcome_of({"t": 1.0}, "loss"))
    scores.add("wild", 1, outcome_of({}, "loss", diverged="loss is nan"))
    (wild,) = against(scores, ["wild"], BASELINE, files_of(["t"], "loss"))
    assert (wild.seeds, wild.difference) == (1, pytest.approx(0.5))
    (gone,) = against(scores, ["gone"], BASELINE, files_of(["t"], "loss"))
    assert gone.seeds == 0
    assert math.isnan(gone.difference)


def test_several_files_are_averaged_within_a_seed():
    arms = {BASELINE: {"a": BASE, "b": BASE}, "up": {"a": BASE + 0.1 + STEADY, "b": BASE - 0.02 - STEADY}}
    found = against(scores_of(arms, "loss"), list(arms), BASELINE, files_of(["a", "b"], "loss"))
    assert [one.test for one in found] == ["a", "a", "b", "b", "all tests (loss)", "all tests (loss)"]
    assert found[-1].difference == pytest.approx(0.04)
    assert found[-1].error == pytest.approx(0, abs=1e-12)  # what seeds do to one file they undo on the other
    assert not found[-1].significant or found[-1].error > 0


def test_p_values_are_adjusted_for_all_arms_of_a_file_and_for_all_pairs():
    rng = np.random.default_rng(0)
    arms = {BASELINE: {"t": BASE}} | {name: {"t": BASE + rng.normal(0.01, 0.01, 3)} for name in "abc"}
    scores, tests = scores_of(arms, "loss"), files_of(["t"], "loss")
    alone = against(scores, ["a"], BASELINE, tests)[0].p
    together = against(scores, ["a", "b", "c"], BASELINE, tests)[0].p
    assert alone <= together <= 3 * alone
    assert [(one.arm, one.other) for one in between(scores, ["a", "b", "c"], tests)] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_an_undecided_difference_says_how_many_seeds_it_takes():
    rng = np.random.default_rng(1)
    arms = {BASELINE: {"t": rng.normal(0.5, 0.02, 4)}, "near": {"t": rng.normal(0.49, 0.02, 4)}}
    (near,) = against(scores_of(arms, "loss"), ["near"], BASELINE, files_of(["t"], "loss"))
    assert not near.significant
    assert near.seeds_needed is None or near.seeds_needed > 4


def test_what_is_shown_beside_is_compared_too():
    test = TestFile(name="t", sha256="t", examples=20, measure="accuracy", beside="loss")
    scores = Scores()
    for seed, value in enumerate(BASE):
        for arm in (BASELINE, "up"):
            scores.add(arm, seed, outcome_of({"t": value}, "accuracy"))
    (up,) = beside(scores, ["up"], BASELINE, [test])
    assert (up.measure, up.mean) == ("loss", 1.0)
    assert beside(scores, ["up"], BASELINE, files_of(["t"], "accuracy")) == ()
