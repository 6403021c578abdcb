"""`uniform`: the same everywhere. The control that every other strategy has to beat."""

from planner.evidence.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand


def uniform(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Equal ranks at every site, and equal experts where they are asked for; needs no evidence."""
    return Demand(weights=(1.0,) * len(evidence.sites), granularity="model", plain=True)
