"""`combined`: spectra and sensitivity together, each compared within its projection type and neither trusted far.

The plain product of the two signals loses to uniform at equal parameters, mostly by starving sites. So both are shrunk by their
measured noise and tempered (square root), their product is shrunk half-way to uniform on a log scale, the utility saturates from
the first rank on, and the solver keeps one rank everywhere.
"""

from planner.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand

TEMPER = 0.5
TRUST = 0.5


def combined(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Weights (alpha^temper * g2^temper)^trust, both normalised within type; several tasks count by their geometric mean.

    Raises:
        InputError: no spectra or no sensitivity.
    """
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    product = evidence.relative_alpha() * evidence.relative_sensitivity()
    return Demand(weights=tuple((product ** (TEMPER * TRUST)).tolist()))
