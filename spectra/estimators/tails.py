"""The kernel of every tail fit: exponents of all tails at once, and the one with the smallest Kolmogorov-Smirnov distance.

For a tail that starts at x_i the maximum likelihood exponent is 1 + t_i / S_i with S_i = sum over the tail of ln(x_j / x_i).

- With gaps g_m = ln(x_{m+1} / x_m) >= 0, S_i is one reverse cumulative sum of non-negative terms, so nothing cancels.
- The KS distance on a subset of the tail is a lower bound of the distance on all of it. Candidates whose bound exceeds the
  best full distance cannot win and are never scored in full. The answer is the same as if they had been.

Ties come in two conventions. By position, as weightwatcher has it, every value is a point of its own. By distinct value, as
powerlaw 1.5 has it, equal values are one point of larger weight. `below` tells them apart, and without ties they agree.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.estimators.fits import FitStatus, TailFit

Floats = NDArray[np.float64]
SMALL_SAMPLE = 20  # fewer values than this are marked
SHORT_TAIL = 10
# ln(largest / smallest) of a tail from which on it has an exponent. Rounding to bfloat16 spreads the equal eigenvalues of an
# orthogonal matrix by 0.0095. What lies within has alphas of a hundred and more: no power law, and enough to move any mean.
LEAST_SPREAD = 0.02
NOISE = 1e-15  # relative to the largest eigenvalue and per eigenvalue: rounding of a double-precision Gram matrix

# The bounds and the full distances may round one term differently, by less than 1e-15; 1e-13 is safely beyond.
SLACK = 1e-13
# These three affect speed only.
ROUNDS = (5, 20, 80, 320)  # points per tail in the successive rounds of bounds: each round costs as much as all before it
FEW = 8  # candidates left from which on another round would cost more than scoring them in full
SCORE_ALL = 32  # so many candidates are scored in full at once


@dataclass(frozen=True, slots=True)
class Tails:
    """All tails of a sorted sample.

    `points` are the places where a tail may start, ascending; `below[i]` values are smaller than point i; `log_ratio[j] -
    log_ratio[i]` is ln(points[j] / points[i]); `log_sums[i]` is S_i, one shorter because the last point alone is no tail.
    """

    points: Floats
    below: NDArray[np.intp]
    size: int
    log_ratio: Floats
    log_sums: Floats

    @property
    def sizes(self) -> NDArray[np.intp]:
        """t_i: how many values are in the tail that starts at point i, without the last point."""
        return self.size - self.below[:-1]


def tails(x: Floats, *, distinct: bool = False) -> Tails:
    """Prepare a sample.

    Args:
        x: at least two positive finite values, ascending, not all equal.
        distinct: count equal values as one point (powerlaw's convention).
    """
    # In a sorted sample the index of a value's first occurrence is the number of smaller values.
    points, below = np.unique(x, return_index=True) if distinct else (x, np.arange(x.size))
    gaps = log_gaps(points)
    # Gap m enters S_i once for every value above it, for all i <= m: summed from the top, one pass gives all of them.
    log_sums = np.cumsum((gaps * (x.size - below[1:]))[::-1])[::-1]
    return Tails(points, below, x.size, np.concatenate(([0.0], np.cumsum(gaps))), log_sums)


def above_noise(x: Floats) -> Floats:
    """The values of a sorted spectrum that are more than rounding noise of zero."""
    # max(0, ...): a spectrum without a positive value holds nothing but noise.
    return x[x > max(0.0, NOISE * x.size * x[-1])] if x.size else x


def log_gaps(x: Floats) -> Floats:
    """ln(x[1:] / x[:-1]) to a few ulp, also between nearly equal values, where ln x - ln y loses all digits."""
    with np.errstate(over="ignore"):  # ratios that overflow are mended below
        gaps: Floats = np.log1p((x[1:] - x[:-1]) / x[:-1])
    apart = np.isinf(gaps)  # neighbours more than 308 decades apart: their ratio overflows, their logarithms do not
    if apart.any():
        gaps[apart] = np.log(x[1:][apart]) - np.log(x[:-1][apart])
    return gaps


def exponents(sample: Tails, *, bias: int = 0) -> Floats:
    """Exponent of every tail: 1 + (t - bias) / S, infinite where all values of the tail are equal."""
    with np.errstate(divide="ignore"):
        alphas: Floats = 1 + (sample.sizes - bias) / sample.log_sums
    return alphas


def distance(sample: Tails, alphas: Floats, start: int) -> float:
    """KS distance of one tail: max_j |1 - (x_j / x_i)^(1 - alpha_i) - (share of the tail below x_j)|."""
    # Powers by logarithms, which are at hand. The empirical distribution is left-continuous: a point does not count itself.
    ratios = sample.log_ratio[start:] - sample.log_ratio[start]
    fitted = 1 - np.exp((1 - alphas[start]) * ratios)
    below = sample.below[start:] - sample.below[start]
    return float(np.abs(fitted - below / (sample.size - sample.below[start])).max())


def lower_bounds(sample: Tails, alphas: Floats, starts: NDArray[np.intp], points: int) -> Floats:
    """For each start, the same maximum over only `points` + 1 evenly spaced places of its tail."""
    last = sample.points.size - 1
    # (starts, points + 1), whole numbers from start to last, both included. Short tails repeat places, which no maximum minds.
    places = starts[:, None] + (np.arange(points + 1) * (last - starts)[:, None]) // points
    ratios = sample.log_ratio[places] - sample.log_ratio[starts, None]
    fitted = 1 - np.exp((1 - alphas[starts, None]) * ratios)
    below = sample.below[places] - sample.below[starts, None]
    bounds: Floats = np.abs(fitted - below / (sample.size - sample.below[starts, None])).max(axis=1)
    return bounds


def smallest_distance(sample: Tails, alphas: Floats, candidates: NDArray[np.intp]) -> tuple[int, float]:
    """First candidate with the smallest KS distance, and that distance.

    Exact: `best` is always some candidate's full distance, so a candidate whose lower bound exceeds it is no minimiser; every
    minimiser is therefore scored in full, and comparing (distance, start) keeps the first of equals.
    """
    best = (np.inf, 0)
    bounds: Floats = np.zeros(candidates.size)  # without a round of bounds nothing is ruled out
    if candidates.size > SCORE_ALL:
        for points in ROUNDS:
            bounds = lower_bounds(sample, alphas, candidates, points)
            # One full distance a round: that of the smallest bound, which is likely small itself and rules out the most.
            promising = int(candidates[bounds.argmin()])
            best = min(best, (distance(sample, alphas, promising), promising))
            kept = bounds <= best[0] + SLACK
            candidates, bounds = candidates[kept], bounds[kept]
            if candidates.size <= FEW:
                break
        # By ascending bound, so that the first one beyond the best distance ends the search.
        ranking = np.argsort(bounds, kind="stable")
        candidates, bounds = candidates[ranking], bounds[ranking]
    for start, bound in zip(candidates.tolist(), bounds.tolist(), strict=True):
        if bound > best[0] + SLACK:
            break
        best = min(best, (distance(sample, alphas, start), start))
    return best[1], best[0]


def tail_fit(sample: Tails, start: int, alpha: float, ks: float) -> TailFit:
    """The fit of one tail, with its standard error and a status that flags small samples and short tails.

    A tail whose values are equal up to rounding, such as that of an orthogonal matrix, is a failure.
    """
    if sample.log_ratio[-1] - sample.log_ratio[start] < LEAST_SPREAD:
        return failed(FitStatus.NEARLY_EQUAL)
    n_tail = int(sample.size - sample.below[start])
    # One status per fit. A small sample goes before a short tail: it is about all values, and in `clauset` changes the formula.
    small, short = sample.size < SMALL_SAMPLE, n_tail < SHORT_TAIL
    status = FitStatus.SMALL_SAMPLE if small else FitStatus.SHORT_TAIL if short else FitStatus.OK
    sigma = (alpha - 1) / n_tail**0.5
    return TailFit(alpha=alpha, x_min=float(sample.points[start]), n_tail=n_tail, ks=ks, sigma=sigma, status=status)


def failed(status: FitStatus) -> TailFit:
    """A fit without numbers."""
    return TailFit(alpha=np.nan, x_min=np.nan, n_tail=0, ks=np.nan, sigma=np.nan, status=status)


def why_not(x: Floats) -> FitStatus | None:
    """The reason why a sorted sample cannot be fitted, or None."""
    if x.size < 2:
        return FitStatus.TOO_FEW
    return FitStatus.ALL_EQUAL if x[0] == x[-1] else None
