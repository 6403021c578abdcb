"""`combined`: spectra and sensitivity together, each compared within its projection type and neither trusted far.

The plain product of the two signals loses to uniform at equal parameters, mostly by starving sites. So both are tempered (square
root), their product is shrunk half-way to uniform on a log scale, the utility saturates from the first rank on, and the solver
keeps one rank everywhere.
"""

import numpy as np

from planner.evidence import Evidence, within_type
from planner.strategies.demand import Demand

TEMPER = 0.5
TRUST = 0.5


def combined(evidence: Evidence) -> Demand:
    """Weights (alpha^temper * g2^temper)^trust, both normalised within type; several tasks count by their geometric mean.

    Raises:
        InputError: no spectra or no sensitivity.
    """
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    alpha = within_type(evidence.sites, [site.alpha for site in evidence.sites])
    tasks = zip(*(site.sensitivity for site in evidence.sites), strict=True)
    gradient = np.exp(np.mean([np.log(within_type(evidence.sites, task)) for task in tasks], axis=0))
    return Demand(weights=tuple(((alpha * gradient) ** (TEMPER * TRUST)).tolist()))
