"""Spectral metrics that need no tail fit, and scale-dependent summaries of one."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spectra.core.documents import Measured, Value
from spectra.estimators.fits import TailFit

Floats = NDArray[np.float64]


class Metrics(Value):
    """Spectral metrics of one matrix W with eigenvalues lambda of W^T W; NaN where a quantity does not exist."""

    lambda_max: Measured
    """Largest eigenvalue: the squared spectral norm."""
    frobenius_norm: Measured
    """Square root of the sum of eigenvalues."""
    stable_rank: Measured
    """Sum of eigenvalues over the largest: at most the rank, and robust to small ones."""
    effective_rank: Measured
    """Exponential of the entropy of normalised singular values (Roy and Vetterli, EUSIPCO 2007)."""
    spectral_entropy: Measured
    """Entropy of normalised eigenvalues over its maximum, between 0 (rank one) and 1 (all equal)."""
    alpha_hat: Measured
    """alpha x log10 lambda_max (Martin, Peng and Mahoney, Nature Communications 12, 2021)."""
    log_alpha_norm: Measured
    """log10 of the sum of lambda^alpha."""
    bulk_edge: Measured
    """Upper Marchenko-Pastur edge of the noise that the median eigenvalue implies (Gavish and Donoho, arXiv 1305.5870)."""
    n_beyond_edge: int
    """Eigenvalues above that edge: directions that noise of this level would not show."""


def metrics(spectrum: Floats, fit: TailFit, shape: tuple[int, int]) -> Metrics:
    """Summarise a spectrum.

    Args:
        spectrum: eigenvalues, ascending; all NaN for a matrix that is not finite.
        fit: its tail fit.
        shape: (d_out, d_in) of the matrix, or of each slice of a convolution.
    """
    # Rounding may leave negative values in place of zeros, and NaN compares false: neither is kept.
    positive = spectrum[spectrum > 0]
    if positive.size == 0:
        nothing = dict.fromkeys(Metrics.model_fields, np.nan)
        return Metrics(**nothing | {"n_beyond_edge": 0})  # type: ignore[arg-type]  # all other fields are floats
    largest, total = float(positive[-1]), float(positive.sum())
    edge = bulk_edge(spectrum, shape)
    return Metrics(
        lambda_max=largest,
        frobenius_norm=total**0.5,
        stable_rank=total / largest,
        effective_rank=float(np.exp(_entropy(np.sqrt(positive)))),
        # The entropy of n values is at most ln n, which is 0 for a single one.
        spectral_entropy=_entropy(positive) / np.log(positive.size) if positive.size > 1 else 0.0,
        # This and the next are NaN where the fit failed: alpha is NaN then.
        alpha_hat=fit.alpha * np.log10(largest),
        log_alpha_norm=_log_power_sum(positive, fit.alpha),
        bulk_edge=edge,
        n_beyond_edge=int((spectrum > edge).sum()),
    )


def _entropy(weights: Floats) -> float:
    shares = weights / weights.sum()
    shares = shares[shares > 0]  # a share may underflow
    return float(-(shares * np.log(shares)).sum())


def _log_power_sum(x: Floats, power: float) -> float:
    """log10 sum x^power, without overflow for large exponents."""
    logs = power * np.log10(x)
    return float(logs.max() + np.log10((10 ** (logs - logs.max())).sum()))


def bulk_edge(spectrum: Floats, shape: tuple[int, int]) -> float:
    """Where the eigenvalues of pure noise would end, for noise of the level that the median eigenvalue implies.

    For an N x M matrix (N >= M) of independent entries of variance s^2 the eigenvalues of W^T W end at s^2 (sqrt N + sqrt M)^2,
    and their median is s^2 N mu(M / N), with mu the median of the Marchenko-Pastur law. Unlike the variance of the entries, the
    median is hardly moved by signal.
    """
    N, M = max(shape), min(shape)
    # max(0, ...): rounding may leave a tiny negative median where half of the eigenvalues are zero.
    variance = max(0.0, float(np.median(spectrum))) / (N * marchenko_pastur_median(M / N))
    return float(variance * (N**0.5 + M**0.5) ** 2)


# Safe to keep: a pure function of the ratio, and a model has only so many different shapes.
@lru_cache(maxsize=256)
def marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko-Pastur law with aspect ratio 0 < ratio <= 1, good to 1e-7.

    In the angle theta with t = centre - radius cos theta the density has no singularity, not even at ratio 1.
    """
    # The law lives between (1 - sqrt ratio)^2 and (1 + sqrt ratio)^2, which are centre -+ radius.
    centre, radius = 1 + ratio, 2 * ratio**0.5
    edges = np.linspace(0, np.pi, 20_001)
    # Midpoints, because at ratio 1 the density is 0 / 0 in the first edge itself.
    theta = (edges[1:] + edges[:-1]) / 2
    # The law's sqrt((b - t)(t - a)) / (2 pi ratio t) times dt / dtheta: both numerators are radius sin theta.
    density = radius**2 * np.sin(theta) ** 2 / (2 * np.pi * ratio * (centre - radius * np.cos(theta)))
    # The step is left out, because mass is only compared with its own total.
    mass = np.concatenate(([0.0], np.cumsum(density)))
    return float(centre - radius * np.cos(np.interp(mass[-1] / 2, mass, edges)))
