"""How a prior and measured loss reductions become one weight, and how noise moves an estimate towards its type's mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.evidence.shrinkage import LEAST_WEIGHT, is_significant, shrunk, updated
from planner.sensitivity.report import Estimate

PRIOR = np.array([1.0, 2.0, 1.0, 0.5])


def measured(means, errors):
    return np.array([means, np.broadcast_to(errors, len(means))]).T


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_a_measurement_without_noise_counts_as_much_as_trust_allows(trust):
    means = np.array([4.0, 1.0, 2.0, 1.0])
    expected = trust * means / means.mean() + (1 - trust) * PRIOR / PRIOR.mean()
    np.testing.assert_allclose(updated(PRIOR, measured(means, 0.0), trust), expected, rtol=1e-12)


def test_a_measurement_of_nothing_but_noise_changes_nothing():
    before = PRIOR / PRIOR.mean()
    np.testing.assert_allclose(updated(PRIOR, measured([4.0, 1.0, 2.0, 1.0], np.nan)), before, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured([4.0, 1.0, 2.0, 1.0], 3.0)), before, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured([-1.0, 0.2, 0.1, 0.1], 0.01)), before, rtol=1e-12)


def test_the_surer_of_two_equal_sites_moves_further():
    found = updated(np.ones(4), measured([3.0, 3.0, 1.0, 1.0], [0.1, 1.0, 0.1, 0.1]))
    assert found[0] > found[1] > 1.0


@given(
    st.lists(st.tuples(st.floats(-1, 10), st.floats(0, 3), st.floats(0.1, 5)), min_size=2, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_weights_are_positive_of_mean_one_and_know_no_units(rows, unit):
    means, errors, prior = np.array(rows).T
    found = updated(prior, measured(means, errors))
    assert found.mean() == pytest.approx(1.0)
    assert found.min() > 0.5 * LEAST_WEIGHT or found.min() == pytest.approx((prior / prior.mean()).min())
    np.testing.assert_allclose(found, updated(prior, measured(unit * means, unit * errors)), rtol=1e-6)


def test_a_site_never_falls_below_the_least_weight():
    found = updated(np.ones(4), measured([4.0, -1.0, 2.0, 1.0], 0.0), 1.0)
    np.testing.assert_allclose(
        found, np.array([8 / 3, LEAST_WEIGHT, 4 / 3, 2 / 3]) / np.mean([8 / 3, LEAST_WEIGHT, 4 / 3, 2 / 3])
    )


def test_only_a_sum_beyond_twice_its_noise_is_significant():
    assert is_significant(measured([3.0, 3.1], np.sqrt(4.5)))
    assert not is_significant(measured([3.0, 2.9], np.sqrt(4.5)))
    assert not is_significant(measured([3.0, 3.0], np.nan))
    assert not is_significant(measured([-3.0, -3.0], 0.0))


def test_certain_estimates_are_compared_with_their_types_geometric_mean():
    certain = [Estimate(mean=mean, error=0.0) for mean in (1.0, 4.0, 5.0, 20.0)]
    np.testing.assert_allclose(shrunk(["q", "q", "up", "up"], certain), [0.5, 2.0, 0.5, 2.0])


def test_noise_shrinks_a_deviation_by_what_of_the_spread_is_real():
    # logarithms 0 and 2: deviations of 1, their variance 2; noise of 0.5 leaves 1.5 real, and 1.5 / 2 of each deviation
    noisy = [Estimate(mean=mean, error=mean * math.sqrt(0.5)) for mean in (1.0, math.exp(2))]
    np.testing.assert_allclose(np.log(shrunk(["q", "q"], noisy)), [-0.75, 0.75])
    loud = [Estimate(mean=mean, error=3 * mean) for mean in (1.0, math.exp(2))]
    assert shrunk(["q", "q"], loud).tolist() == [1.0, 1.0]


def test_the_noisier_of_two_equal_estimates_stays_nearer_to_the_mean():
    estimates = [Estimate(mean=8.0, error=0.1), Estimate(mean=8.0, error=4.0), Estimate(mean=1.0, error=0.1)]
    found = shrunk(["q"] * 3, estimates)
    assert found[0] > found[1] > 1.0


def test_unknown_estimates_are_one_zero_counts_as_the_least_and_unknown_errors_as_none():
    estimates = [Estimate(mean=mean, error=math.nan) for mean in (math.nan, 0.0, 1.0, 1.0, 16.0)]
    np.testing.assert_allclose(shrunk(["q"] * 5, estimates), [1.0, 0.5, 0.5, 0.5, 8.0])
    assert shrunk(["q"], [Estimate(mean=0.0, error=0.0)]).tolist() == [1.0]
