import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.estimators import ESTIMATORS
from spectra.estimators.clauset import clauset
from spectra.estimators.farms import window_eigenvalues
from spectra.estimators.fits import FitStatus
from spectra.estimators.hill import hill, peak
from spectra.estimators.tails import distance, exponents, tail_fit, tails
from spectra.metrics import bulk_edge, marchenko_pastur_median, metrics
from spectra.uncertainty.alternatives import compare
from spectra.uncertainty.resampling import bootstrap, goodness_of_fit, subsample_variation
from tests.reference.hill import reference_median, reference_peak, reference_windows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import powerlaw


def spectrum(n, m, seed=0, tail=3):
    W = 0.02 * np.random.default_rng(seed).standard_t(tail, (n, m))
    return np.sort(np.linalg.svd(W, compute_uv=False) ** 2)


def powerlaw_fit(x):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return powerlaw.Fit(x, verbose=False)


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


@pytest.mark.parametrize("shape", [(130, 260), (384, 384), (150, 100), (60, 40), (1024, 150), (100, 100)])
def test_farms_windows_equal_one_svd_each(shape):
    W = np.random.default_rng(1).normal(size=shape)
    ours, reference = window_eigenvalues(W), reference_windows(W)
    assert ours.size == reference.size
    np.testing.assert_allclose(ours, reference, atol=1e-12 * reference.max())


def test_farms_sees_no_aspect_ratio_where_hill_does():
    rng = np.random.default_rng(0)
    square, wide = rng.normal(size=(512, 512)), rng.normal(size=(256, 1024))
    plain = [hill(np.linalg.svd(W, compute_uv=False) ** 2).alpha for W in (square, wide)]
    windows = [hill(window_eigenvalues(W)).alpha for W in (square, wide)]
    assert plain == pytest.approx([2.13, 3.45], abs=0.05)  # the values that docs/method.md speaks of
    assert abs(windows[0] - windows[1]) < 0.05


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize("values", [[], [1.0], [0.0] * 9, [2.0] * 30, [1.0, np.nan], [np.inf, 1.0, 2.0]])
def test_no_estimator_raises_or_returns_a_sentinel(name, values):
    found = ESTIMATORS[name](values)
    assert np.isnan(found.alpha)
    assert found.status.startswith("failed: ")


@pytest.mark.parametrize("name", ["hill", "peak", "peak-meant"])
def test_scale_does_not_matter_but_for_the_released_slip(name):
    x = spectrum(90, 120)
    one, other = ESTIMATORS[name](x), ESTIMATORS[name](1024 * x)
    if name != "peak":  # its lower bound compares a logarithm with a plain value
        assert other.alpha == pytest.approx(one.alpha, rel=1e-12)


def test_a_rank_deficient_matrix_is_not_fitted_to_noise():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(64, 40)) @ rng.normal(size=(40, 64))
    x = np.sort(np.linalg.eigvalsh(W.T @ W))
    assert peak(x).n_tail <= 40
    assert hill(x[:40]).status is FitStatus.HALF_ZERO


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["ties", "pareto", "matrix"]), st.integers(8, 200), st.integers(0, 9999))
def test_powerlaws_tie_rule(family, n, seed):
    rng = np.random.default_rng(seed)
    x = spectrum(n, n + 3, seed) if family == "matrix" else rng.pareto(2, n) + 1
    x = np.round(x, 1) if family == "ties" else x
    if np.unique(x).size < 3:
        return
    theirs, ours = powerlaw_fit(x), clauset(x, threshold=0, ties="powerlaw")
    assert ours.x_min == theirs.xmin
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9)
    assert ours.ks == pytest.approx(theirs.D, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_comparisons_are_powerlaws(seed):
    x = spectrum(150, 300, seed)
    theirs, ours = powerlaw_fit(x), {found.alternative: found for found in compare(x, clauset(x, threshold=0))}
    for name in ("exponential", "lognormal", "truncated power law"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ratio, p = theirs.distribution_compare("power_law", name.replace(" ", "_"))
        # our search may find a better alternative than theirs, which only lowers the ratio
        assert ours[name].ratio <= ratio + 1e-3
        assert ours[name].ratio == pytest.approx(ratio, abs=0.25)
        assert ours[name].iid_p == pytest.approx(p, abs=0.12)


def test_goodness_of_fit_accepts_a_power_law_and_rejects_what_is_none():
    rng = np.random.default_rng(0)
    law = (1 - rng.random(500)) ** (-1 / 1.5)
    other = np.sort(1 + rng.random(500))  # uniform, fitted from its smallest value on
    sample = tails(other)
    whole = tail_fit(sample, 0, float(exponents(sample)[0]), distance(sample, exponents(sample), 0))
    assert goodness_of_fit(law, clauset(law), 100, np.random.default_rng(1)) > 0.1
    assert goodness_of_fit(other, whole, 100, np.random.default_rng(1)) < 0.1


def test_intervals_cover_the_known_exponent():
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = bootstrap((1 - rng.random(400)) ** (-1 / 1.5), clauset, 60, rng)
        covered += found.low <= 2.5 <= found.high
    assert covered >= 15


def test_subsamples_of_noise_vary_little_for_hill():
    W = np.random.default_rng(0).normal(size=(120, 200))
    alpha = lambda part: hill(np.linalg.svd(part, compute_uv=False) ** 2).alpha  # noqa: E731
    assert subsample_variation(W, alpha, 6, np.random.default_rng(0)) < 0.05


@pytest.mark.parametrize(
    ("ratio", "median"), [(1.0, 0.65278), (0.5, 0.83047), (0.25, 0.91600), (0.125, 0.95817), (0.0625, 0.97913)]
)
def test_the_marchenko_pastur_median(ratio, median):
    assert marchenko_pastur_median(ratio) == pytest.approx(median, abs=1e-5)


@pytest.mark.parametrize("shape", [(600, 600), (900, 300), (300, 900)])
def test_the_bulk_edge_of_noise_is_where_noise_ends(shape):
    x = np.sort(np.linalg.svd(0.3 * np.random.default_rng(0).normal(size=shape), compute_uv=False) ** 2)
    assert bulk_edge(x, shape) == pytest.approx(x[-1], rel=0.05)
    spiked = np.append(x[:-2], [4 * x[-1], 9 * x[-1]])
    assert metrics(spiked, hill(spiked), shape).n_beyond_edge in (2, 3)


def test_metrics_of_a_spectrum_that_is_easy_to_work_out():
    found = metrics(np.array([1.0, 1.0, 4.0]), clauset([1.0, 1.0, 4.0]), (3, 3))
    assert (found.lambda_max, found.frobenius_norm, found.stable_rank) == (4.0, 6**0.5, 1.5)
    assert found.effective_rank == pytest.approx(np.exp(1.5 * np.log(2)))  # singular values 1, 1, 2
    assert found.spectral_entropy == pytest.approx((2 / 6 * np.log(6) + 4 / 6 * np.log(1.5)) / np.log(3))
    assert found.log_alpha_norm == pytest.approx(np.log10(2 + 4 ** clauset([1.0, 1.0, 4.0]).alpha))


def test_metrics_of_nothing_are_nan():
    nothing = metrics(np.full(4, np.nan), clauset([np.nan]), (4, 4))
    assert np.isnan(nothing.stable_rank)
    assert nothing.n_beyond_edge == 0
