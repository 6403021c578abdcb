"""`combined`: spectra and sensitivity together, each compared within its projection type and neither trusted far.

The plain product of the two signals loses to uniform at equal parameters, mostly by starving sites. So both are shrunk by their
measured noise, their product is tempered until the largest weight is a few times the least, the utility saturates from the
first rank on, and the solver keeps one rank at every module that all tokens pass. Without evidence that is the uniform plan. In
our study of a dense model nothing beat uniform, and what stayed close to it lost nothing.

A routed expert serves only the tokens that reach it. The mean over tokens of log(1 + rank) weighs each module by that share, and
the rule follows it by half: in our study of a mixture-of-experts model that beat uniform on every task (docs/experiments.md).
"""

from planner.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand

TRUST, USE = 0.125, 0.5


def combined(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Weights sqrt(use) (alpha g2)^trust, alpha and g2 normalised within type; several tasks count by their geometric mean.

    Raises:
        InputError: no spectra, no sensitivity, or none of routed experts' use.
    """
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    product = evidence.relative_alpha() * evidence.relative_sensitivity()
    return Demand(weights=tuple((evidence.use() ** USE * product**TRUST).tolist()), spares_experts=True)
