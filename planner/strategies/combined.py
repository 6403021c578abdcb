"""`combined`: spectra, sensitivity and price together, none of them trusted far.

The plain product of the two signals loses to uniform at equal parameters, mostly by starving sites. So both are compared within
their projection type and shrunk by their measured noise, their product is tempered, the utility saturates from the first rank
on, and the solver keeps one rank everywhere. A rank of a small module is worth more per parameter than one of a large
module: equal parameters would call for weights cost^-1, equal ranks for 1, and half-way did best (docs/experiments.md).
"""

import numpy as np

from planner.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand

THRIFT = 0.5
TRUST = 0.125


def combined(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Weights cost^-thrift (alpha g2)^trust, both normalised within type; several tasks count by their geometric mean.

    Raises:
        InputError: no spectra or no sensitivity.
    """
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    cost = np.array([site.rank_cost for site in evidence.sites], dtype=float)
    product = evidence.relative_alpha() * evidence.relative_sensitivity()
    return Demand(weights=tuple((cost**-THRIFT * product**TRUST).tolist()))
