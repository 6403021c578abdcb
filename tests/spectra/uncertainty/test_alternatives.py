import contextlib
import io
import warnings

import numpy as np
import pytest

from spectra.estimators.clauset import clauset
from spectra.estimators.fits import FitStatus
from spectra.estimators.tails import exponents, failed, tail_fit, tails
from spectra.uncertainty.alternatives import ALTERNATIVES, compare

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


def test_an_exponential_tail_is_told_from_a_power_law():
    rng = np.random.default_rng(0)
    law, other = (1 - rng.random(2000)) ** -1.0, 1 + rng.exponential(1, 2000)
    assert list(ALTERNATIVES) == ["exponential", "lognormal", "truncated power law"]
    favoured = {}
    for name, x in (("law", law), ("other", other)):
        sample = tails(np.sort(x))  # the whole sample is the tail
        whole = tail_fit(sample, 0, float(exponents(sample)[0]), 0.1)
        favoured[name] = {one.alternative: one for one in compare(x, whole)}
    assert favoured["law"]["exponential"].ratio > 0 > favoured["other"]["exponential"].ratio
    assert favoured["law"]["exponential"].iid_p < 1e-6
    assert favoured["other"]["exponential"].iid_p < 1e-6
    assert favoured["law"]["exponential"].normalised_ratio > 5


def test_the_law_that_contains_the_power_law_is_never_worse():
    x = (1 - np.random.default_rng(1).random(800)) ** -0.8
    (nested,) = (one for one in compare(x, clauset(x)) if one.alternative == "truncated power law")
    assert nested.ratio <= 1e-6


def test_a_failed_fit_is_compared_with_nothing():
    assert compare(np.ones(9), failed(FitStatus.ALL_EQUAL)) == ()
