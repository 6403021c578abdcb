"""Whole numbers in given proportions."""

from collections.abc import Sequence

import numpy as np


def largest_remainder(weights: Sequence[float], total: int, most: int) -> list[int]:
    """Share out `total` in proportion to the weights, at least one and at most `most` each.

    Everyone first gets the whole part of their exact share within these limits; what is left goes to the largest fractions,
    ties to the earlier.

    Args:
        weights: n non-negative numbers, not all zero.
        total: at least n, at most n times `most`.
        most: the largest share.

    Returns:
        n whole numbers that sum to `total`.
    """
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    shares = np.clip(np.floor(exact), 1, most).astype(int)
    while shares.sum() != total:
        short = shares.sum() < total
        movable = shares < most if short else shares > 1
        owed = np.where(movable, exact - shares, -np.inf if short else np.inf)
        shares[int(owed.argmax() if short else owed.argmin())] += 1 if short else -1
    return [int(share) for share in shares]
