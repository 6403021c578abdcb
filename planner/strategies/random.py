"""`random`: a draw that knows nothing. The baseline for strategies that claim to know something."""

from typing import Annotated

import numpy as np
from pydantic import Field

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.documents import Value


class RandomSettings(Value):
    """The draw's own settings."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed for the random plan."""


def random(evidence: Evidence, settings: RandomSettings) -> Demand:
    """Ranks in proportion to independent exponential draws: a uniformly random division of the budget.

    With a minimum rank of 0 the utility saturates instead, so that a scarce budget leaves modules out.
    """
    draws = np.random.default_rng(settings.seed).exponential(size=len(evidence.sites))
    return Demand(weights=tuple(draws.tolist()), utility="log", without_floor="log1p")
