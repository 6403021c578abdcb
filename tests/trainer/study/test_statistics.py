"""Paired differences: intervals that know seeds and examples, Holm's adjustment, and how many seeds a difference takes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.two_way import reference_mean_squares, reference_variance
from trainer.study.statistics import ASSURED, POWER, detectable, holm, paired, seeds_for


def drawn(rng, seeds, examples, of_seed, of_example, of_rest, mean=0.0):
    """Differences d[s, i] with known parts."""
    return (
        mean
        + rng.normal(0, of_seed, (seeds, 1))
        + rng.normal(0, of_example, (1, examples))
        + rng.normal(0, of_rest, (seeds, examples))
    )


@given(seeds=st.integers(3, 6), examples=st.integers(2, 9), number=st.integers(0, 1000))
def test_variance_and_freedom_are_the_textbooks(seeds, examples, number):
    table = drawn(np.random.default_rng(number), seeds, examples, 1.0, 0.5, 2.0, mean=0.3)
    found = paired([table])
    mean, by_row, by_column, rest = reference_mean_squares(table.tolist())
    variance, freedom = reference_variance(table.tolist())
    count = seeds * examples
    assert found.mean == pytest.approx(mean)
    assert (found.spread.by_seed, found.spread.by_example, found.spread.by_rest) == pytest.approx(
        (by_row / count, by_column / count, rest / count)
    )
    assert (found.error**2, found.freedom) == pytest.approx((variance, freedom))


@pytest.mark.parametrize(
    ("seeds", "examples", "of_seed", "of_example", "of_rest"),
    [(3, 200, 0.02, 0.3, 0.3), (5, 400, 0.02, 0.3, 0.1), (8, 50, 0.0, 1.0, 0.5), (4, 100, 1.0, 0.1, 0.1), (2, 60, 0.5, 1.0, 1.0)],
)
def test_intervals_hold_the_truth_in_95_of_100_studies(seeds, examples, of_seed, of_example, of_rest):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = paired([drawn(rng, seeds, examples, of_seed, of_example, of_rest, mean=0.1)]).interval
        held += low <= 0.1 <= high
    assert held / 400 > 0.92  # three standard errors below 95%; two seeds hold more than that


def test_one_example_lost_in_every_seed_settles_nothing():
    # 30 of 64 right against 29 of 64, the same example in both seeds: the seeds do not differ, the examples do.
    table = np.zeros((2, 64))
    table[:, 5] = -1
    found = paired([table])
    low, high = found.interval
    assert found.mean == pytest.approx(-1 / 64)
    assert low < 0 < high
    assert found.p > 0.05


def test_a_spread_of_zero_settles_nothing():
    for table in (np.zeros((3, 10)), np.full((3, 10), 0.5)):
        found = paired([table])
        assert found.error == 0
        assert math.isnan(found.p)
        assert found.mean == table.mean()


def test_one_seed_gives_no_interval():
    found = paired([np.ones((1, 10))])
    assert found.mean == 1
    assert math.isnan(found.error)
    assert math.isnan(found.p)


def test_several_files_count_alike_and_share_their_seeds():
    rng = np.random.default_rng(1)
    seed = rng.normal(0, 1, (4, 1))
    files = [seed + rng.normal(0, 0.1, (4, 50)), 1 + seed + rng.normal(0, 0.1, (4, 5000))]
    found = paired(files)
    assert found.mean == pytest.approx((files[0].mean() + files[1].mean()) / 2)
    # What a seed does to one file it does to the other, so the files do not average it away.
    assert found.spread.by_seed == pytest.approx(float(seed.var(ddof=1)) / 4, rel=0.1)
    alone = paired(files[:1])
    assert paired([files[0], files[0]]).error == pytest.approx(math.sqrt(alone.spread.by_seed), rel=0.01)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5], [0.5]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.01, math.nan], [0.02, math.nan]),
        ([], []),
    ],
)
def test_holm_adjusts_as_published(values, expected):
    assert holm(values) == pytest.approx(expected, nan_ok=True)


def test_the_seeds_that_are_asked_for_find_the_difference():
    """A pilot of three seeds asks for as many as find a planted difference in at least four of five studies."""
    rng = np.random.default_rng(2)
    found = studies = 0
    for _ in range(60):
        pilot = paired([drawn(rng, 3, 800, 0.02, 0.1, 0.2)])
        seeds = seeds_for(0.02, pilot.spread.assured(), 1)
        if seeds is None or seeds > 200:
            continue
        studies += 1
        found += paired([drawn(rng, seeds, 800, 0.02, 0.1, 0.2, mean=0.02)]).p < 0.05
    assert studies > 40
    assert found / studies >= POWER


def test_more_seeds_show_smaller_differences_until_the_examples_are_the_limit():
    spread = paired([drawn(np.random.default_rng(3), 5, 100, 0.05, 0.2, 0.1)]).spread
    sizes = [detectable(spread.with_seeds(seeds), 3) for seeds in (3, 5, 10, 100, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 2 * math.sqrt(max(0.0, spread.by_example - spread.by_rest))
    assert seeds_for(sizes[-1] / 2, spread, 3) is None
    assert seeds_for(sizes[2], spread, 3) == 10
    assert detectable(spread, 10) > detectable(spread, 1)


def test_a_pilot_is_taken_for_what_it_assures():
    spread = paired([drawn(np.random.default_rng(4), 3, 500, 0.05, 0.2, 0.1)]).spread
    # With two degrees of freedom the true variance is up to 4.5 times the pilot's, with a probability of 80%.
    assert ASSURED == 0.8
    assert spread.assured().by_seed / spread.by_seed == pytest.approx(2 / 0.4463, rel=1e-3)
