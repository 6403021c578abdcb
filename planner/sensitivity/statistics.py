"""Statistics of one example's weight gradient, and how well samples of examples agree."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planner.sensitivity.report import STATISTICS, Estimate, Stability, Statistic

Floats = NDArray[np.float64]
SPLITS = 20  # random pairs of disjoint samples behind each figure of stability
STABLE = 0.95
# The squared norm costs two small products; the other three statistics need the gradient itself, a third of a training step. So
# they are taken on every fourth example, and probing stays within 1.3 times a LoRA step.
EVERY = 4


def gradient_statistics(inputs: Tensor, gradients: Tensor, weight: Tensor) -> Tensor:
    """The four statistics of one example's weight gradient G = sum_t d_t x_t^T.

    G is formed once, multiplied with the weight in place and dropped.

    Args:
        inputs: (T, d_in), what the layer saw.
        gradients: (T, d_out), the loss gradient of what it returned.
        weight: (d_out, d_in).

    Returns:
        Shape (4,) in float64: sum G^2, sum |G W|, |sum G W| and sum (G W)^2, in the order of `STATISTICS`.
    """
    # Dot products of the flat matrix need no second one of its size. The square comes first: mul_ then overwrites G.
    G_OI = gradients.mT @ inputs
    flat = G_OI.view(-1)
    squared = torch.dot(flat, flat)
    flat = G_OI.mul_(weight).view(-1)
    total, squares = flat.sum().abs(), torch.dot(flat, flat)
    return torch.stack([squared, flat.abs_().sum(), total, squares]).double()


def squared_norm(inputs: Tensor, gradients: Tensor) -> Tensor:
    """The first statistic alone: |G|^2 = sum_{s,t} (x_s . x_t)(d_s . d_t) needs two token-by-token products instead of G.

    Goodfellow's trick (arXiv 1510.01799), extended over tokens; G is formed where that is cheaper. Shapes as above.

    Returns:
        Shape () in float64.
    """
    tokens, d_in, d_out = len(inputs), inputs.shape[1], gradients.shape[1]
    # Multiplications per token: tokens (d_in + d_out) for the two products, d_in d_out for G.
    if tokens * (d_in + d_out) <= d_in * d_out:
        return torch.dot((inputs @ inputs.mT).view(-1), (gradients @ gradients.mT).view(-1)).double()
    flat = (gradients.mT @ inputs).view(-1)
    return torch.dot(flat, flat).double()


def squared_norms(inputs: Tensor, gradients: Tensor) -> Tensor:
    """`squared_norm` of several examples of one length: (examples, T, d_in) and (examples, T, d_out) -> (examples,).

    Products of bfloat16 stay in it: the sum over all pairs of tokens averages their rounding out.
    """
    tokens, d_in, d_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    if inputs.dtype == torch.float16:  # gradients would underflow
        inputs, gradients = inputs.float(), gradients.float()
    if tokens * (d_in + d_out) <= d_in * d_out:
        products = (inputs @ inputs.mT) * (gradients @ gradients.mT)
        return products.sum((1, 2), dtype=torch.promote_types(products.dtype, torch.float32)).double()
    # One at a time: all gradients together may not fit.
    wide = torch.promote_types(inputs.dtype, torch.float32)
    return torch.stack([squared_norm(x.to(wide), d.to(wide)) for x, d in zip(inputs, gradients, strict=True)])


def estimates(per_example: Floats) -> Mapping[Statistic, tuple[Estimate]]:
    """Mean and standard error of every statistic.

    Args:
        per_example: (examples, 4); NaN where a statistic was not taken.
    """
    # Never empty: the first example of all is taken in full.
    return {name: (_estimate(column[~np.isnan(column)]),) for name, column in zip(STATISTICS, per_example.T, strict=True)}


def _estimate(values: Floats) -> Estimate:
    error = values.std(ddof=1) / values.size**0.5 if values.size > 1 else np.nan
    return Estimate(mean=float(values.mean()), error=float(error))


def stability(per_example: Floats, types: Sequence[str]) -> tuple[tuple[Stability, ...], int | None]:
    """How well two disjoint samples rank the sites alike, for sample sizes 4, 8, 16, ...

    Args:
        per_example: (examples, sites), the squared gradients.
        types: each site's projection type; sites are compared with their type's mean, or size would make up the agreement.

    Returns:
        One entry per size, and the size from which on the rank correlation stays high, if any.
    """
    found = tuple(_agreement(per_example, types, size) for size in _sizes(len(per_example)))
    stable_from = None
    # From the largest sample down, because stable means that no larger one falls back. `not >=`: NaN is not stable.
    for entry in reversed(found):
        if not entry.rank_correlation >= STABLE:
            break
        stable_from = entry.examples
    return found, stable_from


def _sizes(examples: int) -> Iterator[int]:
    size = 4
    while 2 * size <= examples:
        yield size
        size *= 2


def _agreement(per_example: Floats, types: Sequence[str], size: int) -> Stability:
    rng = np.random.default_rng(0)  # the same gradients give the same report
    correlations, overlaps = [], []
    for _ in range(SPLITS):
        drawn = rng.permutation(len(per_example))[: 2 * size]
        one, other = (_relative(per_example[half].mean(axis=0), types) for half in np.split(drawn, 2))
        correlations.append(_spearman(one, other))
        overlaps.append(_overlap(one, other))
    return Stability(examples=size, rank_correlation=float(np.mean(correlations)), overlap=float(np.mean(overlaps)))


def rank_agreement(one: Floats, other: Floats, types: Sequence[str]) -> float:
    """Spearman's rank correlation of two measurements (sites,), each compared with the mean of its projection type."""
    return _spearman(_centred(one, types), _centred(other, types))


def _centred(values: Floats, types: Sequence[str]) -> Floats:
    """Differences from a type's mean, over the type's mean size: loss reductions may be negative, so no ratio serves."""
    known, found = np.array(types), values.astype(np.float64)
    for projection in np.unique(known):
        members = known == projection
        size = max(float(np.abs(values[members]).mean()), np.finfo(float).tiny)
        found[members] = (values[members] - values[members].mean()) / size
    return found


def _relative(means: Floats, types: Sequence[str]) -> Floats:
    known, relative = np.array(types), means.copy()
    for projection in np.unique(known):
        members = known == projection
        relative[members] /= max(float(means[members].mean()), np.finfo(float).tiny)  # a type of zeros stays zero
    return relative


def _spearman(one: Floats, other: Floats) -> float:
    from scipy.stats import rankdata  # takes a moment to import

    a, b = (ranks - ranks.mean() for ranks in (rankdata(one), rankdata(other)))
    # Pearson's correlation of ranks; where all sites are tied there is no ranking to agree on.
    return float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else np.nan


def _overlap(one: Floats, other: Floats) -> float:
    """Shared members of the two top halves, rescaled so that blind picking gives 0."""
    half = one.size // 2
    if half == 0:
        return np.nan
    top = [set(np.argsort(-values, kind="stable")[:half].tolist()) for values in (one, other)]
    shared, chance = len(top[0] & top[1]) / half, half / one.size  # blind halves share this part of their members
    return float((shared - chance) / (1 - chance))
