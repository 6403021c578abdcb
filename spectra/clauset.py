"""The Clauset fit, exact and fast: maximum likelihood alpha, x_min by smallest Kolmogorov-Smirnov distance over all candidates.

Source: Clauset, Shalizi and Newman, "Power-law distributions in empirical data" (arXiv 0706.1062), sections 3.1 and 3.3, with
weightwatcher 0.7.7's conventions: duplicates count one by one, the empirical CDF is left-continuous, fewer than 20 points get a
bias-corrected exponent. Same answer as scoring every candidate in full, in a hundredth of the time:

- With gaps g_m = ln(x_{m+1} / x_m) >= 0 every exponent is 1 + t_i / S_i, where S_i = sum_{m >= i} (n - 1 - m) g_m is one reverse
  cumulative sum of non-negative terms: nothing cancels.
- The KS distance on a subset of the tail is a lower bound of the distance on all of it. Candidates whose bound exceeds the best
full
  distance cannot win and are never scored in full.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectra.fits import FitStatus, TailFit

WW_THRESHOLD = 1e-5
SMALL_SAMPLE = 20  # below this many eigenvalues weightwatcher switches to the bias-corrected exponent ...
SMALL_TAIL = 8  # ... and scores only tails of at least this many
SHORT_TAIL = 10

# The bounds below and the full distances may round one term differently, by less than 1e-15; 1e-13 is safely beyond.
SLACK = 1e-13
# Points per tail in the two rounds of bounds, and when to stop bounding and score in full. They affect speed only.
ROUNDS, FEW, SCORE_ALL = (24, 192), 16, 64


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """Sorted values in the form the fit needs: `log_ratio[j] - log_ratio[i]` = ln(x_j / x_i), exponents for every tail start."""

    log_ratio: NDArray[np.float64]
    alpha: NDArray[np.float64]


def clauset(eigenvalues: ArrayLike, threshold: float = WW_THRESHOLD) -> TailFit:
    """Fit a power law to the upper tail of a spectrum.

    Args:
        eigenvalues: any shape, any order.
        threshold: values at or below it are dropped first. It is absolute, as in weightwatcher, so alpha is not scale invariant.

    Returns:
        The fit of the candidate x_min with the smallest KS distance, the smallest x_min among equals. A spectrum that cannot be
        fitted gives NaN and the reason.
    """
    values = np.asarray(eigenvalues, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        return failed(FitStatus.NOT_FINITE)
    x = np.sort(values[values > threshold])
    if x.size < 2:
        return failed(FitStatus.TOO_FEW)
    if x[0] == x[-1]:
        return failed(FitStatus.ALL_EQUAL)
    spectrum, candidates = _exponents(x)
    if candidates.size == 0:
        return failed(FitStatus.NO_EXPONENT)
    best, distance = _smallest_distance(spectrum, candidates)
    return _tail_fit(x, best, float(spectrum.alpha[best]), distance)


def failed(status: FitStatus) -> TailFit:
    """A fit without numbers."""
    return TailFit(alpha=np.nan, x_min=np.nan, n_tail=0, ks=np.nan, sigma=np.nan, status=status)


def _tail_fit(x: NDArray[np.float64], start: int, alpha: float, distance: float) -> TailFit:
    n_tail = x.size - start
    status = FitStatus.SMALL_SAMPLE if x.size < SMALL_SAMPLE else FitStatus.SHORT_TAIL if n_tail < SHORT_TAIL else FitStatus.OK
    sigma = (alpha - 1) / np.sqrt(n_tail)
    return TailFit(alpha=alpha, x_min=float(x[start]), n_tail=n_tail, ks=distance, sigma=sigma, status=status)


def _exponents(x: NDArray[np.float64]) -> tuple[_Spectrum, NDArray[np.intp]]:
    """Exponents of all tails x[i:], and the indices i that may compete."""
    n = x.size
    gaps = _log_gaps(x)
    tails = np.arange(n, 1, -1)
    log_sums = np.cumsum((gaps * (tails - 1))[::-1])[::-1]
    small = n < SMALL_SAMPLE
    with np.errstate(divide="ignore"):
        alpha = 1 + (tails - small) / log_sums
    competes = np.isfinite(alpha) & (alpha > 1)
    if small:
        # 1e-12 is weightwatcher's own test for a degenerate tail. With fewer than 8 values the whole spectrum is the only tail.
        competes &= (log_sums > 1e-12) & (tails >= min(SMALL_TAIL, n))
    return _Spectrum(np.concatenate(([0.0], np.cumsum(gaps))), alpha), np.flatnonzero(competes)


def _log_gaps(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(x[1:] / x[:-1]) to a few ulp, also between nearly equal values, where ln x - ln y loses all digits."""
    with np.errstate(over="ignore"):
        gaps = np.log1p((x[1:] - x[:-1]) / x[:-1])
    apart = np.isinf(gaps)  # neighbours more than 308 decades apart: their ratio overflows, their logarithms do not
    gaps[apart] = np.log(x[1:][apart]) - np.log(x[:-1][apart])
    return gaps


def _distance(spectrum: _Spectrum, start: int) -> float:
    """KS distance of the tail that starts at `start`: max_j |1 - (x_j / x_i)^(1 - alpha_i) - (j - i) / t_i|."""
    ratios = spectrum.log_ratio[start:] - spectrum.log_ratio[start]
    fitted = 1 - np.exp((1 - spectrum.alpha[start]) * ratios)
    return float(np.abs(fitted - np.arange(ratios.size) / ratios.size).max())


def _lower_bounds(spectrum: _Spectrum, starts: NDArray[np.intp], points: int) -> NDArray[np.float64]:
    """For each start, the same maximum over only `points` + 1 evenly spaced places of its tail."""
    last = spectrum.log_ratio.size - 1
    steps = (np.arange(points + 1) * (last - starts)[:, None]) // points
    ratios = spectrum.log_ratio[starts[:, None] + steps] - spectrum.log_ratio[starts, None]
    fitted = 1 - np.exp((1 - spectrum.alpha[starts, None]) * ratios)
    bounds: NDArray[np.float64] = np.abs(fitted - steps / (last + 1 - starts)[:, None]).max(axis=1)
    return bounds


def _smallest_distance(spectrum: _Spectrum, candidates: NDArray[np.intp]) -> tuple[int, float]:
    """First candidate with the smallest KS distance.

    Exact: `best` is always some candidate's full distance, so a candidate whose lower bound exceeds it is no minimiser; every
    minimiser is therefore scored in full, and the tuple comparison keeps the first of equals.
    """
    best = (np.inf, 0)
    if candidates.size > SCORE_ALL:
        for points in ROUNDS:
            bounds = _lower_bounds(spectrum, candidates, points)
            promising = int(candidates[bounds.argmin()])
            best = min(best, (_distance(spectrum, promising), promising))
            kept = bounds <= best[0] + SLACK
            candidates, bounds = candidates[kept], bounds[kept]
            if candidates.size <= FEW:
                break
        ranking = np.argsort(bounds, kind="stable")
        candidates, bounds = candidates[ranking], bounds[ranking]
    else:
        bounds = np.zeros(candidates.size)
    for start, bound in zip(candidates.tolist(), bounds.tolist(), strict=True):
        if bound > best[0] + SLACK:
            break
        best = min(best, (_distance(spectrum, start), start))
    return best[1], best[0]
