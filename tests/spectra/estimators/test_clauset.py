import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.estimators.clauset import clauset
from spectra.estimators.fits import FitStatus
from spectra.estimators.tails import LEAST_SPREAD
from tests.reference.clauset import reference_clauset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their imports warn, and set filters of their own
    import powerlaw
    from weightwatcher.WW_powerlaw import WWFit

FAMILIES = {
    "pareto": lambda rng, n: (1 - rng.random(n)) ** -0.7,
    "lognormal": lambda rng, n: rng.lognormal(0, 2, n),
    "exponential": lambda rng, n: rng.exponential(1, n) + 1e-3,
    "ties": lambda rng, n: np.round(rng.pareto(2, n) + 1, 1),
    "matrix": lambda rng, n: np.linalg.svd(rng.standard_t(3, (n, n + 5)), compute_uv=False) ** 2,
    "rank-deficient": lambda rng, n: (
        np.linalg.svd(rng.normal(size=(n, n // 2 + 1)) @ rng.normal(size=(n // 2 + 1, n)), compute_uv=False) ** 2
    ),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(2, 200), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e6]))
def test_equals_scoring_every_candidate(family, n, seed, scale):
    values = scale * FAMILIES[family](np.random.default_rng(seed), n)
    ours, reference = clauset(values), reference_clauset(values)
    if reference is None:
        assert np.isnan(ours.alpha)
        return
    alpha, x_min, n_tail, ks = reference
    if np.log(values.max() / x_min) < LEAST_SPREAD:  # two values that happen to lie side by side
        assert ours.status is FitStatus.NEARLY_EQUAL
        return
    assert (ours.x_min, ours.n_tail) == (x_min, n_tail)
    assert ours.alpha == pytest.approx(alpha, rel=1e-11)  # the reference sums in another order
    assert ours.ks == pytest.approx(ks, abs=1e-12)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("n", [8, 19, 20, 64, 65, 300, 700])
def test_equals_weightwatcher(family, n):
    values = FAMILIES[family](np.random.default_rng(n), n)
    values = values[values > 1e-5]
    theirs = WWFit(values)
    ours = clauset(values)
    assert ours.x_min == theirs.xmin
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9)
    assert ours.ks == pytest.approx(theirs.D, abs=1e-9)
    if values.size >= 8:  # below, weightwatcher's sigma is negative
        assert ours.sigma == pytest.approx(theirs.sigma, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.7, 2.5, 4.0])
def test_recovers_a_known_exponent(alpha):
    values = (1 - np.random.default_rng(1).random(20_000)) ** (-1 / (alpha - 1))
    found = clauset(values)
    assert abs(found.alpha - alpha) < 4 * found.sigma


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 300), st.integers(0, 2**32 - 1), st.sampled_from([0.25, 4.0, 1024.0]))
def test_scaling_by_a_power_of_two_changes_nothing(n, seed, scale):
    values = 1 + FAMILIES["pareto"](np.random.default_rng(seed), n)
    one, other = clauset(values), clauset(scale * values)
    assert (one.alpha, one.n_tail, one.ks) == (other.alpha, other.n_tail, other.ks)


def test_order_does_not_matter():
    rng = np.random.default_rng(5)
    values = FAMILIES["pareto"](rng, 200)
    assert clauset(values) == clauset(rng.permutation(values))


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], FitStatus.TOO_FEW),
        ([1.0], FitStatus.TOO_FEW),
        ([1e-6] * 50, FitStatus.TOO_FEW),
        ([0.0, -1e-18, 3.0], FitStatus.TOO_FEW),
        ([2.0] * 40, FitStatus.ALL_EQUAL),
        ([1.0, np.nan, 2.0], FitStatus.NOT_FINITE),
        ([1.0, np.inf, 2.0], FitStatus.NOT_FINITE),
    ],
)
def test_what_cannot_be_fitted_says_why(values, status):
    found = clauset(values)
    assert found.status is status
    assert np.isnan([found.alpha, found.x_min, found.ks, found.sigma]).all()


def test_equal_maxima_are_no_candidates():
    # weightwatcher returns alpha = inf here, because it scores the block of equal maxima
    assert clauset([1.0, *[1e9] * 24]).alpha == pytest.approx(1.0503, abs=1e-4)


def test_a_far_outlier_is_a_short_tail():
    found = clauset([*np.linspace(1, 2, 50), 1e9])
    assert found.alpha == pytest.approx(1.1496, abs=1e-4)
    assert (found.n_tail, found.status) == (3, FitStatus.SHORT_TAIL)


def test_small_samples_have_a_positive_sigma():
    found = clauset([1.0, 2.0, 3.0, 5.0])
    assert found.sigma > 0  # weightwatcher's is negative
    assert found.status is FitStatus.SMALL_SAMPLE


def test_neighbours_whose_ratio_overflows():
    assert np.isfinite(clauset([1e-4, 1.0, 1e300, *np.logspace(301, 305, 30)]).alpha)


def powerlaw_fit(x):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return powerlaw.Fit(x, verbose=False)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["ties", "pareto", "matrix"]), st.integers(8, 200), st.integers(0, 9999))
def test_powerlaws_tie_rule(family, n, seed):
    rng = np.random.default_rng(seed)
    x = FAMILIES["matrix"](rng, n) if family == "matrix" else rng.pareto(2, n) + 1
    x = np.round(x, 1) if family == "ties" else x
    if np.unique(x).size < 3:
        return
    theirs, ours = powerlaw_fit(x), clauset(x, threshold=0, ties="powerlaw")
    assert ours.x_min == theirs.xmin
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9)
    assert ours.ks == pytest.approx(theirs.D, abs=1e-9)
