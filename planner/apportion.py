"""Whole numbers in given proportions."""

from collections.abc import Sequence

import numpy as np


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Share out `total` in proportion to the weights, at least one each.

    Everyone first gets the whole part of their exact share, or one; what is left goes to the largest fractions, ties to the
    earlier.

    Args:
        weights: n non-negative numbers, not all zero.
        total: at least n.

    Returns:
        n whole numbers that sum to `total`.
    """
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    shares = np.maximum(1, np.floor(exact)).astype(int)
    while shares.sum() != total:
        short = shares.sum() < total
        owed = exact - shares if short else np.where(shares > 1, exact - shares, np.inf)
        shares[int(owed.argmax() if short else owed.argmin())] += 1 if short else -1
    return [int(share) for share in shares]
