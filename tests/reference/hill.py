"""Hill's estimator, the peak window and FARMS, written from the published formulas, one value at a time."""

import numpy as np


def reference_hill(x, start):
    """1 + n / (sum of ln x over the tail - n ln x_min), x_min itself counted."""
    tail = np.sort(x)[start:]
    return 1 + len(tail) / sum(np.log(value / tail[0]) for value in tail)


def reference_median(x):
    """x_min at position n // 2 of the ascending spectrum."""
    return reference_hill(x, len(x) // 2)


def reference_peak(x, meant=False):
    """Smallest KS distance with x_min between (log10 of) 0.95 and 1.5 times the fullest histogram bin's left edge."""
    x = np.sort(x)
    counts, edges = np.histogram(np.log10(x), bins=100)
    top = 10 ** edges[np.argmax(counts)]
    low = 0.95 * top if meant else np.log10(0.95 * top)
    best = (np.inf, None)
    for start in range(len(x) - 1):
        if x[start] < low:
            continue
        if x[start] > 1.5 * top:
            break
        alpha = reference_hill(x, start)
        tail = x[start:]
        if alpha > 1:
            ks = max(abs(1 - (value / tail[0]) ** (1 - alpha) - j / len(tail)) for j, value in enumerate(tail))
            best = min(best, (ks, alpha))
    return best[1]


def reference_windows(W, rows=100, aspect=2, positions=10):
    """Squared singular values of all FARMS windows, each by an SVD of its own."""
    height = min(rows, *W.shape)
    width = int(aspect * height)
    steps = [max(1, (size - window) // (positions - 1)) for size, window in zip(W.shape, (height, width), strict=True)]
    counts = [min(positions, max(1, (size - window) // step + 1))
              for size, window, step in zip(W.shape, (height, width), steps, strict=True)]  # fmt: skip
    values = []
    for a in range(counts[0]):
        for b in range(counts[1]):
            row, column = min(a * steps[0], W.shape[0] - height), min(b * steps[1], W.shape[1] - width)
            values += list(np.linalg.svd(W[row : row + height, column : column + width], compute_uv=False) ** 2)
    return np.sort(values)
