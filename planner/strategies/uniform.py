"""`uniform`: the same everywhere. The baseline that every other strategy has to beat."""

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.methods import NoSettings


def uniform(evidence: Evidence, settings: NoSettings) -> Demand:
    """Equal ranks at every site, and equal experts where they are asked for; needs no evidence."""
    return Demand(weights=(1.0,) * len(evidence.sites), granularity="model", plain=True)
