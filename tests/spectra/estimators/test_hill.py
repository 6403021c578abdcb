import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.estimators import ESTIMATORS
from spectra.estimators.fits import FitStatus
from spectra.estimators.hill import above_noise, hill, peak, peak_meant
from tests.reference.hill import reference_median, reference_peak


def spectrum(n, m, seed=0, tail=3):
    W = 0.02 * np.random.default_rng(seed).standard_t(tail, (n, m))
    return np.sort(np.linalg.svd(W, compute_uv=False) ** 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 80), st.integers(4, 80), st.integers(0, 999))
def test_hill_and_peak_equal_the_published_formulas(n, m, seed):
    x = spectrum(n, m, seed)
    assert hill(x).alpha == pytest.approx(reference_median(x), rel=1e-10)
    for meant in (False, True):
        reference, ours = reference_peak(x, meant), peak(x, meant)
        if reference is None:
            assert ours.status is FitStatus.EMPTY_WINDOW
        else:
            assert ours.alpha == pytest.approx(reference, rel=1e-9)


@pytest.mark.parametrize("name", ["hill", "peak", "peak-meant"])
def test_scale_does_not_matter_but_for_the_released_slip(name):
    x = spectrum(90, 120)
    one, other = ESTIMATORS[name].fit(x), ESTIMATORS[name].fit(1024 * x)
    if name != "peak":  # its lower bound compares a logarithm with a plain value
        assert other.alpha == pytest.approx(one.alpha, rel=1e-12)


def test_a_rank_deficient_matrix_is_not_fitted_to_noise():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(64, 40)) @ rng.normal(size=(40, 64))
    x = np.sort(np.linalg.eigvalsh(W.T @ W))
    assert peak(x).n_tail <= 40
    assert hill(x[:40]).status is FitStatus.HALF_ZERO


def test_the_intended_window_is_an_estimator_of_its_own():
    spectra = [spectrum(90, 120, seed) for seed in range(8)]
    assert all(peak_meant(x) == peak(x, meant=True) for x in spectra)
    assert any(peak_meant(x) != peak(x) for x in spectra)


def test_noise_is_relative_to_the_largest_eigenvalue_and_to_their_number():
    x = np.array([-1.0, 0.0, 3.9e-15, 4.1e-15, 1.0])
    assert above_noise(x[1:]).tolist() == [4.1e-15, 1.0]
    assert above_noise(x).tolist() == [1.0]  # five eigenvalues: 5e-15
    assert above_noise(np.array([])).size == 0


def test_a_short_upper_half_is_marked_without_claiming_another_formula():
    found = hill(spectrum(30, 60))
    assert found.status is FitStatus.SMALL_SAMPLE
    assert "formula" not in found.status
