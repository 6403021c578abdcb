"""`clauset`: maximum likelihood alpha, x_min by smallest Kolmogorov-Smirnov distance over all candidates.

Source: Clauset, Shalizi and Newman, "Power-law distributions in empirical data" (arXiv 0706.1062), sections 3.1 and 3.3, with
weightwatcher 0.7.7's conventions: the empirical CDF is left-continuous, fewer than 20 points get a bias-corrected exponent.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from spectra.estimators.fits import FitStatus, TailFit
from spectra.estimators.tails import SMALL_SAMPLE, exponents, failed, smallest_distance, tail_fit, tails, why_not

WW_THRESHOLD = 1e-5  # weightwatcher's EVALS_THRESH
SMALL_TAIL = 8  # in small samples weightwatcher scores only tails of at least this many values


def clauset(
    eigenvalues: ArrayLike, threshold: float = WW_THRESHOLD, ties: Literal["weightwatcher", "powerlaw"] = "weightwatcher"
) -> TailFit:
    """Fit a power law to the upper tail of a spectrum.

    Args:
        eigenvalues: any shape, any order.
        threshold: values at or below it are dropped first. It is absolute, as in weightwatcher, so alpha is not scale invariant.
        ties: the convention to follow where values are equal, and whether samples below 20 get the bias-corrected exponent
            (weightwatcher) or the plain one (powerlaw 1.5). On 20 or more distinct values both are one estimator.

    Returns:
        The fit of the candidate x_min with the smallest KS distance, the smallest x_min among equals. A spectrum that cannot be
        fitted gives NaN and the reason.
    """
    values = np.asarray(eigenvalues, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        return failed(FitStatus.NOT_FINITE)
    x = np.sort(values[values > threshold])
    if reason := why_not(x):
        return failed(reason)
    small = ties == "weightwatcher" and x.size < SMALL_SAMPLE
    sample = tails(x, distinct=ties == "powerlaw")
    # For small samples weightwatcher also weighs tails by another objective, but its constructor then takes the smallest distance
    # all the same: only the bias-corrected exponent and the shortest tail remain of it.
    alphas = exponents(sample, bias=int(small))
    # Infinite for a block of equal maxima, which weightwatcher would return; at 1 or below no law can be normalised.
    competes = np.isfinite(alphas) & (alphas > 1)
    if small:
        # 1e-12 is weightwatcher's own test for a degenerate tail. With fewer than 8 values the whole spectrum is the only tail.
        competes &= (sample.log_sums > 1e-12) & (sample.sizes >= min(SMALL_TAIL, x.size))
    candidates = np.flatnonzero(competes)
    if candidates.size == 0:
        return failed(FitStatus.NO_EXPONENT)
    start, ks = smallest_distance(sample, alphas, candidates)
    return tail_fit(sample, start, float(alphas[start]), ks)
