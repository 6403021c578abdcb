import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.estimators.fits import FitStatus
from spectra.estimators.peak import peak, peak_meant
from spectra.estimators.tails import LEAST_SPREAD
from tests.reference.hill import reference_peak
from tests.spectra.examples import rank_deficient, spectrum


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 80), st.integers(4, 80), st.integers(0, 999), st.booleans())
def test_peak_equals_the_published_formula(n, m, seed, meant):
    x = spectrum(n, m, seed)
    reference, ours = reference_peak(x, meant), peak(x, meant)
    if reference is None:
        assert ours.status is FitStatus.EMPTY_WINDOW
    elif ours.status is FitStatus.NEARLY_EQUAL:
        assert reference > 1 + 1 / LEAST_SPREAD  # values that happen to lie side by side
    else:
        assert ours.alpha == pytest.approx(reference, rel=1e-9)


def test_scale_does_not_matter_where_the_released_slip_is_mended():
    x = spectrum(90, 120)  # as released, the lower bound compares a logarithm with a plain value
    assert peak_meant(1024 * x).alpha == pytest.approx(peak_meant(x).alpha, rel=1e-12)


def test_a_rank_deficient_matrix_is_not_fitted_to_noise():
    assert peak(rank_deficient()).n_tail <= 40


def test_the_intended_window_is_an_estimator_of_its_own():
    spectra = [spectrum(90, 120, seed) for seed in range(8)]
    assert all(peak_meant(x) == peak(x, meant=True) for x in spectra)
    assert any(peak_meant(x) != peak(x) for x in spectra)


def test_values_that_are_not_finite_are_refused():
    assert peak(np.array([1.0, np.nan, 2.0])).status is FitStatus.NOT_FINITE
