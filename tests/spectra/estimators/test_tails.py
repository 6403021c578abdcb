import numpy as np
import pytest
import torch

from spectra.estimators import ESTIMATORS
from spectra.estimators.clauset import clauset
from spectra.estimators.fits import FitStatus
from spectra.estimators.tails import (
    above_noise,
    distance,
    exponents,
    failed,
    log_gaps,
    lower_bounds,
    smallest_distance,
    tail_fit,
    tails,
    why_not,
)


def test_lower_bounds_never_exceed_the_distance():
    x = np.sort(np.random.default_rng(0).lognormal(0, 2, 400))
    sample = tails(x)
    alphas = exponents(sample)
    starts = np.arange(alphas.size)
    for points in (3, 24, 192):
        bounds = lower_bounds(sample, alphas, starts, points)
        full = np.array([distance(sample, alphas, start) for start in starts])
        assert (bounds <= full + 1e-14).all()


def test_exponents_and_distances_of_a_sample_worked_out_by_hand():
    sample = tails(np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(sample.log_sums, [3 * np.log(2), np.log(2)], rtol=1e-15)
    np.testing.assert_allclose(exponents(sample), [1 + 1 / np.log(2), 1 + 2 / np.log(2)], rtol=1e-15)
    np.testing.assert_allclose(exponents(sample, bias=1), [1 + 2 / (3 * np.log(2)), 1 + 1 / np.log(2)], rtol=1e-15)
    # 1 - (x / x_min)^(1 - alpha) is 0, 1 - 1/e, 1 - 1/e^2; the shares below are 0, 1/3, 2/3
    assert distance(sample, exponents(sample), 0) == pytest.approx(1 - np.exp(-1) - 1 / 3)


def test_equal_values_are_points_of_their_own_or_one_of_larger_weight():
    x = np.array([1.0, 2.0, 2.0, 5.0])
    assert tails(x).points.tolist() == [1.0, 2.0, 2.0, 5.0]
    merged = tails(x, distinct=True)
    assert merged.points.tolist() == [1.0, 2.0, 5.0]
    assert merged.below.tolist() == [0, 1, 3]
    assert merged.sizes.tolist() == [4, 3]
    np.testing.assert_allclose(merged.log_sums, [2 * np.log(2) + np.log(5), np.log(2.5)], rtol=1e-15)


def test_gaps_keep_their_digits_between_neighbours_and_do_not_overflow():
    close = np.array([1.0, 1.0 + 2**-50])
    assert log_gaps(close)[0] == pytest.approx(2**-50, rel=1e-12)
    assert log_gaps(np.array([1e-200, 1e200]))[0] == pytest.approx(400 * np.log(10), rel=1e-12)


def test_the_smallest_distance_is_the_first_of_all_scored_in_full():
    rng = np.random.default_rng(3)
    for size in (20, 90, 700):
        sample = tails(np.sort(rng.standard_t(3, size) ** 2))
        alphas = exponents(sample)
        candidates = np.flatnonzero(np.isfinite(alphas) & (alphas > 1))
        every = [distance(sample, alphas, start) for start in candidates]
        assert smallest_distance(sample, alphas, candidates) == (candidates[int(np.argmin(every))], min(every))


@pytest.mark.parametrize(
    ("size", "start", "status"), [(19, 0, FitStatus.SMALL_SAMPLE), (20, 11, FitStatus.SHORT_TAIL), (20, 10, FitStatus.OK)]
)
def test_small_samples_and_short_tails_are_marked(size, start, status):
    found = tail_fit(tails(np.arange(1.0, size + 1)), start, 3.0, 0.1)
    assert (found.status, found.x_min, found.n_tail) == (status, start + 1.0, size - start)
    assert found.sigma == pytest.approx(2 / (size - start) ** 0.5)


def test_a_failed_fit_has_no_numbers_and_says_why():
    found = failed(FitStatus.TOO_FEW)
    assert np.isnan([found.alpha, found.x_min, found.ks, found.sigma]).all()
    assert (found.n_tail, found.status) == (0, FitStatus.TOO_FEW)
    assert why_not(np.array([1.0])) is FitStatus.TOO_FEW
    assert why_not(np.array([2.0, 2.0])) is FitStatus.ALL_EQUAL
    assert why_not(np.array([1.0, 2.0])) is None


def test_noise_is_relative_to_the_largest_eigenvalue_and_to_their_number():
    x = np.array([-1.0, 0.0, 3.9e-15, 4.1e-15, 1.0])
    assert above_noise(x[1:]).tolist() == [4.1e-15, 1.0]
    assert above_noise(x).tolist() == [1.0]  # five eigenvalues: 5e-15
    assert above_noise(np.array([])).size == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [12, 64, 256])
def test_an_orthogonal_matrix_has_no_exponent_however_it_was_rounded(dtype, size):
    """Its alpha was 3 million, by the spread that rounding gives to equal eigenvalues."""
    draws = torch.Generator().manual_seed(size)
    W = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=draws))[0].to(getattr(torch, dtype)).double()
    spectrum = torch.linalg.eigvalsh(W.T @ W).numpy()
    for name, estimator in ESTIMATORS.items():
        if not estimator.windowed:
            assert np.isnan(estimator.fit(spectrum).alpha), name


def test_twelve_nearly_equal_eigenvalues_have_no_exponent():
    assert clauset(1 + 1e-6 * np.arange(12)).status is FitStatus.NEARLY_EQUAL
    assert clauset(1 + 0.5 * np.arange(12)).alpha > 1
