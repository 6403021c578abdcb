"""The Clauset fit as weightwatcher 0.7.7 defines it, every candidate scored in full: slow and obvious."""

import numpy as np


def reference_clauset(values, threshold=1e-5):
    """Return (alpha, x_min, n_tail, ks) or None. Skips tails of equal values, which weightwatcher scores as infinite."""
    x = np.sort([value for value in np.ravel(values) if value > threshold])
    n = len(x)
    small = n < 20
    best = None
    for start in range(n - 1):
        tail = x[start:]
        t = len(tail)
        if small and t < min(8, n):
            continue
        log_sum = sum(np.log1p((value - tail[0]) / tail[0]) for value in tail)
        if log_sum <= (1e-12 if small else 0):
            continue
        alpha = 1 + (t - small) / log_sum
        if not np.isfinite(alpha) or alpha <= 1:
            continue
        ks = max(abs(1 - (value / tail[0]) ** (1 - alpha) - j / t) for j, value in enumerate(tail))
        if best is None or ks < best[3]:
            best = (alpha, tail[0], t, ks)
    return best
