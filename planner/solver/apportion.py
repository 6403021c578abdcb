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
    # The limits may have moved the sum either way. One unit at a time goes to whoever is owed most, or comes from whoever is owed
    # least, among those whom the limits let move.
    shares = np.clip(np.floor(exact), 1, most).astype(int)
    while shares.sum() != total:
        short = shares.sum() < total
        movable = shares < most if short else shares > 1
        owed = np.where(movable, exact - shares, -np.inf if short else np.inf)
        shares[int(owed.argmax() if short else owed.argmin())] += 1 if short else -1
    return [int(share) for share in shares]


def released_rounding(weights: Sequence[float], total: int) -> list[int]:
    """Share out `total` as AlphaLoRA's released code does: round, then repair the sum.

    Each share is rounded to the nearest whole number. While they sum to too little, the one with the smallest weight minus share
    gets one more; while to too much, the one with the largest loses one. The weights are not normalised, so the repair hits the
    same extreme again and again, and a share may be 0. For comparison only; `largest_remainder` is fair.

    Args:
        weights: n positive numbers, alpha^beta.
        total: what the shares sum to.

    Returns:
        n whole numbers that sum to `total`.
    """
    values = np.asarray(weights, dtype=np.float64)
    shares = np.round(values / values.sum() * total).astype(int)
    while shares.sum() < total:
        shares[(values - shares).argmin()] += 1
    while shares.sum() > total:
        shares[(values - shares).argmax()] -= 1
    return [int(share) for share in shares]
