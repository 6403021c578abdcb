"""`peak` and `peak-meant`: x_min near the histogram's peak, the second of the two behind what the literature calls PL_Alpha_Hill.

Source: AlphaPruning's and AlphaLoRA's released codes (`xmin_peak`). Thresholds and noise are treated as in hill.py.
"""

import numpy as np
from numpy.typing import ArrayLike

from spectra.estimators.fits import FitStatus, TailFit
from spectra.estimators.tails import above_noise, exponents, failed, smallest_distance, tail_fit, tails, why_not

BINS = 100


def peak(eigenvalues: ArrayLike, meant: bool = False) -> TailFit:
    """Smallest KS distance with x_min in a window around the histogram's peak (AlphaPruning's and AlphaLoRA's `xmin_peak`).

    The peak p is the left edge of the fullest of 100 equal bins of log10 x. As released, candidates satisfy
    log10(0.95 p) <= x <= 1.5 p: a logarithm compared with a plain value, which leaves the lower bound nearly without effect.

    Args:
        eigenvalues: any shape, any order.
        meant: use 0.95 p <= x <= 1.5 p instead, which was probably intended.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64).ravel())
    if not np.isfinite(values).all():
        return failed(FitStatus.NOT_FINITE)
    x = above_noise(values)
    if reason := why_not(x):
        return failed(reason)
    counts, edges = np.histogram(np.log10(x), bins=BINS)
    # Of equally full bins a rounding error may choose, and alpha jumps with it: so `peak` is computed only if asked for.
    top = 10 ** edges[counts.argmax()]
    lowest = 0.95 * top if meant else np.log10(0.95 * top)
    sample = tails(x)
    alphas = exponents(sample)
    inside = (sample.points[:-1] >= lowest) & (sample.points[:-1] <= 1.5 * top)  # the last point alone is no tail
    candidates = np.flatnonzero(inside & np.isfinite(alphas) & (alphas > 1))
    if candidates.size == 0:
        return failed(FitStatus.EMPTY_WINDOW)
    start, ks = smallest_distance(sample, alphas, candidates)
    return tail_fit(sample, start, float(alphas[start]), ks)


def peak_meant(eigenvalues: ArrayLike) -> TailFit:
    """`peak` with the window that was probably intended."""
    return peak(eigenvalues, meant=True)
