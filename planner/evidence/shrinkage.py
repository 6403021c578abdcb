"""How far a noisy measurement is believed: towards the mean of its projection type, or away from a prior, by how noisy it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.sensitivity.report import Estimate

Floats = NDArray[np.float64]
TRUST = 0.5  # a longer run learns with other modules than a short one does, on some tasks with quite other ones
LEAST_WEIGHT = 0.01  # of the mean: a module that a short run did not need may be needed later


def shrunk(types: Sequence[str], estimates: Sequence[Estimate]) -> Floats:
    """Compare each site with its projection type, because shape moves both signals, as far as its noise lets one tell.

    On a log scale an estimate has the standard error error/mean. Of a type's spread, what exceeds the mean noise is real; each
    deviation is multiplied by real / (real + its own noise), the James-Stein estimator.

    Args:
        types: n projection types.
        estimates: n estimates; a mean that is NaN is unknown, one of zero counts as the type's least positive; an error that is
            NaN counts as none.

    Returns:
        Shape (n,), geometric mean 1 within each type; unknown ones are 1.
    """
    means, errors = np.array([(estimate.mean, estimate.error) for estimate in estimates]).T
    deviations, known = np.zeros(len(types)), np.array(types)
    for projection in np.unique(known):
        # `>= 0` is false for NaN: who is unknown keeps the deviation 0, the mean of the type.
        members = np.flatnonzero((known == projection) & (means >= 0))
        if (means[members] > 0).any():
            least = means[members][means[members] > 0].min()
            deviations[members] = _shrunk_deviations(np.maximum(means[members], least), errors[members])
    return np.exp(deviations)


def _shrunk_deviations(means: Floats, errors: Floats) -> Floats:
    deviations = np.log(means) - np.log(means).mean()
    noise = np.nan_to_num(errors / means) ** 2
    # The variance beyond noise. A site that is alone in its type has no spread, and max(1, ...) keeps 0 / 0 away.
    real = max(0.0, float(np.square(deviations).sum()) / max(1, means.size - 1) - float(noise.mean()))
    # If nothing is real, real + noise may be 0 as well.
    kept: Floats = deviations * (real / (real + noise) if real else 0.0)
    return kept


def updated(prior: Floats, measured: Floats, trust: float = TRUST) -> Floats:
    """Move from a prior towards what was measured, each site as far as its noise lets one tell.

    On a scale where the mean is 1: of the spread between measurement and prior, what exceeds the mean noise is real, and each
    difference is multiplied by real / (real + its own noise), the James-Stein estimator, and by `trust`.

    Args:
        prior: (sites,), positive.
        measured: (sites, 2), means and standard errors; NaN where an error is unknown.
        trust: how much of a measurement, noise apart, is believed to hold for a long run; from 0 to 1.

    Returns:
        Shape (sites,), mean 1, nowhere below `LEAST_WEIGHT`. The prior, if the measurements do not sum to a loss reduction beyond
        twice their noise.
    """
    before: Floats = prior / prior.mean()
    means, errors = measured.T
    if not is_significant(measured):
        return before
    # The mean is positive, or it would not be significant.
    away, noise = means / means.mean() - before, np.square(errors / means.mean())
    real = max(0.0, float(np.square(away).mean() - noise.mean()))
    moved = np.maximum(before + trust * away * (real / (real + noise) if real else 0.0), LEAST_WEIGHT)
    found: Floats = moved / moved.mean()  # lifting the least has raised the mean
    return found


def is_significant(measured: Floats) -> bool:
    """Whether (sites, 2) means and errors sum to a loss reduction beyond twice their noise; never where the noise is unknown."""
    return bool(measured[:, 0].sum() > 2 * np.sqrt(np.square(measured[:, 1]).sum()))  # an unknown error makes the sum NaN
