import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.estimators.fits import FitStatus
from spectra.estimators.hill import hill
from spectra.estimators.tails import LEAST_SPREAD
from tests.reference.hill import reference_median
from tests.spectra.examples import rank_deficient, spectrum


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 80), st.integers(4, 80), st.integers(0, 999))
def test_hill_equals_the_published_formula(n, m, seed):
    x = spectrum(n, m, seed)
    if np.log(x.max() / np.sort(x)[len(x) // 2]) < LEAST_SPREAD:  # two values that happen to lie side by side
        assert hill(x).status is FitStatus.NEARLY_EQUAL
        return
    assert hill(x).alpha == pytest.approx(reference_median(x), rel=1e-10)


def test_scale_does_not_matter():
    x = spectrum(90, 120)
    assert hill(1024 * x).alpha == pytest.approx(hill(x).alpha, rel=1e-12)


def test_half_of_zeros_is_not_fitted_to_noise():
    assert hill(rank_deficient()[:40]).status is FitStatus.HALF_ZERO


def test_a_short_upper_half_is_marked_without_claiming_another_formula():
    found = hill(spectrum(30, 60))
    assert found.status is FitStatus.SMALL_SAMPLE
    assert "formula" not in found.status


def test_values_that_are_not_finite_are_refused():
    assert hill(np.array([1.0, np.nan, 2.0])).status is FitStatus.NOT_FINITE
