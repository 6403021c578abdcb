"""How a prior and measured benefits become one appetite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.evidence import LEAST_APPETITE, updated

PRIOR = np.array([1.0, 2.0, 1.0, 0.5])


def measured(means, errors):
    return np.array([means, np.broadcast_to(errors, len(means))]).T


def test_a_measurement_without_noise_replaces_the_prior():
    means = np.array([4.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(updated(PRIOR, measured(means, 0.0)), means / 2, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured(means, np.nan)), means / 2, rtol=1e-12)


def test_a_measurement_of_nothing_but_noise_changes_nothing():
    before = PRIOR / PRIOR.mean()
    np.testing.assert_allclose(updated(PRIOR, measured([4.0, 1.0, 2.0, 1.0], 3.0)), before, rtol=1e-12)
    np.testing.assert_allclose(updated(PRIOR, measured([-1.0, 0.2, 0.1, 0.1], 0.01)), before, rtol=1e-12)


def test_the_surer_of_two_equal_sites_moves_further():
    found = updated(np.ones(4), measured([3.0, 3.0, 1.0, 1.0], [0.1, 1.0, 0.1, 0.1]))
    assert found[0] > found[1] > 1.0


@given(
    st.lists(st.tuples(st.floats(-1, 10), st.floats(0, 3), st.floats(0.1, 5)), min_size=2, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_appetites_are_positive_of_mean_one_and_know_no_units(rows, unit):
    means, errors, prior = np.array(rows).T
    found = updated(prior, measured(means, errors))
    assert found.mean() == pytest.approx(1.0)
    assert found.min() > 0.5 * LEAST_APPETITE or found.min() == pytest.approx((prior / prior.mean()).min())
    np.testing.assert_allclose(found, updated(prior, measured(unit * means, unit * errors)), rtol=1e-6)
