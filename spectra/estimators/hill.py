"""`hill` and `peak`: the two estimators behind what the literature calls PL_Alpha_Hill.

Both use squared singular values without weightwatcher's threshold and count x_min itself into the tail. Eigenvalues that a Gram
matrix in double precision cannot tell from zero are left out: the reference codes raise on them or let rounding noise decide.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra.estimators.fits import FitStatus, TailFit
from spectra.estimators.tails import distance, exponents, failed, smallest_distance, tail_fit, tails, why_not

BINS = 100
NOISE = 1e-15  # relative to the largest eigenvalue and per eigenvalue: rounding of a double-precision Gram matrix


def hill(eigenvalues: ArrayLike) -> TailFit:
    """Hill's estimator on the upper half of the spectrum: x_min is the median (TempBalance's default, NeurIPS 2023).

    Deterministic, smooth and by far the most reliable of all, because it describes the shape of the bulk as much as the tail. It
    depends on the matrix's aspect ratio: compare equal shapes only, or use `farms`.

    Args:
        eigenvalues: any shape, any order; zeros count for where the middle is.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64).ravel())
    if not np.isfinite(values).all():
        return failed(FitStatus.NOT_FINITE)
    upper = above_noise(values[values.size // 2 :])
    # The first to be left out is the smallest of the upper half, the median itself: x_min would be noise.
    if upper.size < values.size - values.size // 2:
        return failed(FitStatus.HALF_ZERO)
    if reason := why_not(upper):
        return failed(reason)
    sample = tails(upper)
    alphas = exponents(sample)
    return tail_fit(sample, 0, float(alphas[0]), distance(sample, alphas, 0))


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


def above_noise(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values of a sorted spectrum that are more than rounding noise of zero."""
    # max(0, ...): a spectrum without a positive value holds nothing but noise.
    return x[x > max(0.0, NOISE * x.size * x[-1])] if x.size else x
