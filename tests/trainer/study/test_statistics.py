"""Paired differences from the baseline, and how many seeds would show one."""

import math

import numpy as np
import pytest
from scipy import stats

from trainer.study.report import BASELINE, POOLED, Result
from trainer.study.statistics import differences


def results(scores):
    """Candidate -> task -> one score per seed."""
    return [
        Result(candidate=name, seed=seed, task=task, score=score)
        for name, tasks in scores.items()
        for task, values in tasks.items()
        for seed, score in enumerate(values)
    ]


def test_differences_are_paired_and_corrected_for_several_comparisons():
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 6)
    scores = {
        BASELINE: {"one": base, "two": base[::-1]},
        "better": {"one": base + 0.05 + rng.normal(0, 0.01, 6), "two": base[::-1] + 0.04 + rng.normal(0, 0.01, 6)},
        "same": {"one": base + rng.normal(0, 0.02, 6), "two": base[::-1] + rng.normal(0, 0.02, 6)},
    }
    found = {(one.candidate, one.task): one for one in differences(list(scores), results(scores))}
    assert found.keys() == {(name, task) for name in scores for task in ("one", "two", POOLED)}
    delta = scores["better"]["one"] - base
    half = stats.t.ppf(1 - 0.05 / 4, 5) * delta.std(ddof=1) / 6**0.5  # two comparisons with one baseline
    one = found["better", "one"]
    assert (one.difference, one.low, one.high) == pytest.approx((delta.mean(), delta.mean() - half, delta.mean() + half))
    assert one.significant
    assert one.seeds_needed is None
    assert not found["same", "one"].significant
    pooled = (scores["better"]["one"] + scores["better"]["two"] - base - base[::-1]) / 2
    assert found["better", POOLED].difference == pytest.approx(pooled.mean())
    assert found[BASELINE, "one"].difference == found[BASELINE, "one"].high == 0


def test_the_seeds_that_are_needed_would_show_it():
    delta = np.array([0.3, -0.1, 0.4, 0.0, 0.2])
    scores = {BASELINE: {"t": np.zeros(5)}, "maybe": {"t": delta}}
    (_, one) = differences(list(scores), results(scores))
    assert not one.significant
    n = one.seeds_needed
    width = lambda n: stats.t.ppf(0.975, n - 1) * delta.std(ddof=1) / n**0.5  # noqa: E731
    assert width(n) < delta.mean() <= width(n - 1)


def test_a_single_seed_has_a_difference_without_an_interval():
    (base, one) = differences([BASELINE, "one"], results({BASELINE: {"t": [0.5]}, "one": {"t": [0.75]}}))
    assert (one.mean, one.difference) == (0.75, 0.25)
    assert all(map(math.isnan, (one.low, one.high, one.standard_error)))
    assert not one.significant
    assert one.seeds_needed is None
    assert (base.low, base.high) == (0.0, 0.0)


def test_of_one_task_nothing_is_pooled():
    found = differences([BASELINE, "one"], results({BASELINE: {"t": [0.5, 0.6]}, "one": {"t": [0.75, 0.7]}}))
    assert [(one.candidate, one.task) for one in found] == [(BASELINE, "t"), ("one", "t")]


def test_a_difference_that_a_thousand_seeds_would_not_show_needs_none_named():
    scores = {BASELINE: {"t": np.zeros(4)}, "one": {"t": np.array([1.0, -1.0, 1.0, -1.0 + 1e-6])}}
    assert differences(list(scores), results(scores))[1].seeds_needed is None


def test_the_standard_error_is_of_the_candidates_own_mean():
    values = np.array([0.5, 0.7, 0.9])
    (_, one) = differences([BASELINE, "one"], results({BASELINE: {"t": [0.5, 0.5, 0.5]}, "one": {"t": values}}))
    assert one.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(3))
