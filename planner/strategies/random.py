"""`random`: a draw that knows nothing. The control for strategies that claim to know something."""

import numpy as np

from planner.evidence.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand


def random(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Ranks in proportion to independent exponential draws: a uniformly random division of the budget.

    With no least rank the utility saturates instead, so that a scarce budget leaves modules out.
    """
    draws = np.random.default_rng(settings.seed).exponential(size=len(evidence.sites))
    return Demand(weights=tuple(draws.tolist()), utility="log1p" if settings.min_rank == 0 else "log")
