"""What is kept of one example's weight gradient, and how well samples of examples agree."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planner.reports import STATISTICS, Estimate, Stability, Statistic

Floats = NDArray[np.float64]
SPLITS = 20  # random pairs of disjoint samples behind each figure of stability
SETTLED = 0.95


def gradient_statistics(inputs: Tensor, gradients: Tensor, weight: Tensor) -> Tensor:
    """The four statistics of one example's weight gradient G = sum_t d_t x_t^T.

    G is formed once, in a buffer of the weight's size, multiplied with the weight in place and dropped.

    Args:
        inputs: (T, d_in), what the layer saw.
        gradients: (T, d_out), the loss gradient of what it returned.
        weight: (d_out, d_in).

    Returns:
        Shape (4,) in float64: sum G^2, sum |G W|, |sum G W| and sum (G W)^2, in the order of `STATISTICS`.
    """
    G_OI = gradients.mT @ inputs
    flat = G_OI.view(-1)
    squared = torch.dot(flat, flat)
    flat = G_OI.mul_(weight).view(-1)
    return torch.stack([squared, torch.linalg.vector_norm(flat, 1), flat.sum().abs(), torch.dot(flat, flat)]).double()


def estimates(per_example: Floats) -> Mapping[Statistic, tuple[Estimate]]:
    """Mean and standard error of every statistic.

    Args:
        per_example: (examples, 4).
    """
    error = np.full(len(STATISTICS), np.nan)
    if len(per_example) > 1:
        error = per_example.std(axis=0, ddof=1) / len(per_example) ** 0.5
    means = per_example.mean(axis=0)
    return {name: (Estimate(mean=means[at], error=error[at]),) for at, name in enumerate(STATISTICS)}


def stability(per_example: Floats, types: Sequence[str]) -> tuple[tuple[Stability, ...], int | None]:
    """How well two disjoint samples rank the sites alike, for sample sizes 4, 8, 16, ...

    Args:
        per_example: (examples, sites), the squared gradients.
        types: each site's projection type; sites are compared with their type's mean, or size would make up the agreement.

    Returns:
        One entry per size, and the size from which on the rank correlation stays high.
    """
    found = tuple(_agreement(per_example, types, size) for size in _sizes(len(per_example)))
    settled = None
    for entry in reversed(found):
        if not entry.rank_correlation >= SETTLED:
            break
        settled = entry.examples
    return found, settled


def _sizes(examples: int) -> Iterator[int]:
    size = 4
    while 2 * size <= examples:
        yield size
        size *= 2


def _agreement(per_example: Floats, types: Sequence[str], size: int) -> Stability:
    rng = np.random.default_rng(0)
    correlations, overlaps = [], []
    for _ in range(SPLITS):
        drawn = rng.permutation(len(per_example))[: 2 * size]
        one, other = (_relative(per_example[half].mean(axis=0), types) for half in np.split(drawn, 2))
        correlations.append(_spearman(one, other))
        overlaps.append(_overlap(one, other))
    return Stability(examples=size, rank_correlation=float(np.mean(correlations)), overlap=float(np.mean(overlaps)))


def _relative(means: Floats, types: Sequence[str]) -> Floats:
    kinds = np.array(types)
    relative = means.copy()
    for kind in np.unique(kinds):
        relative[kinds == kind] /= max(float(means[kinds == kind].mean()), np.finfo(float).tiny)
    return relative


def _spearman(one: Floats, other: Floats) -> float:
    from scipy.stats import rankdata  # takes a moment to import

    a, b = (ranks - ranks.mean() for ranks in (rankdata(one), rankdata(other)))
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else np.nan


def _overlap(one: Floats, other: Floats) -> float:
    """Shared members of the two top halves, rescaled so that blind picking gives 0."""
    half = one.size // 2
    if half == 0:
        return np.nan
    top = [set(np.argsort(-values, kind="stable")[:half].tolist()) for values in (one, other)]
    shared, chance = len(top[0] & top[1]) / half, half / one.size
    return float((shared - chance) / (1 - chance))
