"""How far an exponent can be trusted: resampling and goodness of fit.

All of these take eigenvalues for independent draws, which they are not: they repel each other. So p-values are optimistic, and
the report calls them `iid_p`.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from spectra.estimators.clauset import clauset
from spectra.estimators.fits import TailFit
from spectra.report import Interval

Floats = NDArray[np.float64]
Fit = Callable[[Floats], TailFit]
COVERAGE = 0.95
KEPT = 0.9  # share of rows and of columns in a subsample


def bootstrap(spectrum: Floats, fit: Fit, replicas: int, rng: np.random.Generator) -> Interval:
    """Percentile interval of alpha under resampling of the eigenvalues with replacement.

    Args:
        spectrum: eigenvalues.
        fit: the estimator.
        replicas: how many resamples; failed fits among them are left out.
        rng: where randomness comes from.
    """
    alphas = [fit(rng.choice(spectrum, spectrum.size)).alpha for _ in range(replicas)]
    known = np.array([alpha for alpha in alphas if np.isfinite(alpha)])
    if known.size == 0:
        return Interval(low=np.nan, high=np.nan, coverage=COVERAGE, replicas=0)
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(low=float(low), high=float(high), coverage=COVERAGE, replicas=known.size)


def subsample_variation(W: Floats, alpha: Callable[[Floats], float], subsamples: int, rng: np.random.Generator) -> float:
    """Coefficient of variation of alpha over random submatrices of nine tenths of the rows and of the columns.

    Args:
        W: the matrix.
        alpha: matrix -> exponent.
        subsamples: how many.
        rng: where randomness comes from.
    """
    alphas = np.array([alpha(part) for part in _submatrices(W, subsamples, rng)])
    # Failed fits are left out; a spread takes two.
    return float(np.nanstd(alphas, ddof=1) / np.nanmean(alphas)) if np.isfinite(alphas).sum() > 1 else np.nan


def _submatrices(W: Floats, count: int, rng: np.random.Generator) -> Iterator[Floats]:
    for _ in range(count):
        rows, columns = (np.sort(rng.choice(side, min(side, max(2, int(KEPT * side))), replace=False)) for side in W.shape)
        yield W[np.ix_(rows, columns)]


def goodness_of_fit(spectrum: Floats, fit: TailFit, replicas: int, rng: np.random.Generator) -> float:
    """p-value of the power law by Clauset's semi-parametric bootstrap (arXiv 0706.1062, section 4.1).

    A replica has as many values as the spectrum: each from the fitted law with the tail's share as probability, otherwise from
    the body below x_min. Its own x_min is estimated again. p is the share of replicas whose KS distance is at least the observed
    one.

    Args:
        spectrum: the eigenvalues that were fitted, cut as for the fit.
        fit: a Clauset fit of them.
        replicas: 2500 give p to about 0.01.
        rng: where randomness comes from.
    """
    if not np.isfinite(fit.alpha):
        return np.nan
    body = spectrum[spectrum < fit.x_min]
    worse = 0
    for _ in range(replicas):
        # Without values below x_min everything is tail.
        in_tail = rng.binomial(spectrum.size, fit.n_tail / spectrum.size) if body.size else spectrum.size
        # The law's quantile function. random() may be 0 but never 1, so 1 - random() has a finite power.
        tail = fit.x_min * (1 - rng.random(in_tail)) ** (-1 / (fit.alpha - 1))
        replica = np.concatenate([tail, rng.choice(body, spectrum.size - in_tail)]) if body.size else tail
        # `not <` and not `>=`: a replica that cannot be fitted has a distance of NaN and counts as worse. Its values were cut
        # already, hence the threshold of 0.
        worse += not clauset(replica, threshold=0.0).ks < fit.ks
    return worse / replicas
