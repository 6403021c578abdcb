"""`hill`: Hill's estimator above the median, the first of the two behind what the literature calls PL_Alpha_Hill.

Squared singular values without weightwatcher's threshold, and x_min itself counts into the tail. Eigenvalues that a Gram matrix
in double precision cannot tell from zero are left out: the reference codes raise on them or let rounding noise decide.
"""

import numpy as np
from numpy.typing import ArrayLike

from spectra.estimators.fits import FitStatus, TailFit
from spectra.estimators.tails import above_noise, distance, exponents, failed, tail_fit, tails, why_not


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
