"""`random`: a draw that knows nothing. The control for strategies that claim to know something."""

import numpy as np

from planner.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand


def random(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Ranks in proportion to independent exponential draws: a uniformly random division of the budget."""
    draws = np.random.default_rng(settings.seed).exponential(size=len(evidence.sites))
    return Demand(weights=tuple(draws.tolist()), utility="log")
