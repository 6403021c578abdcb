"""`alphalora`: capacity by layer in proportion to alpha^beta (Qing et al., EMNLP 2024, arXiv 2410.10054).

A larger alpha means a lighter tail, a less well trained layer, and more experts. The proportional rule is the optimum of the
utility log(x) with weights alpha^beta, which is how it fits a budget of parameters.
"""

from planner.evidence.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand


def alphalora(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Weight each layer by the plain mean of its matrices' alphas, raised to beta.

    Raises:
        InputError: no spectra.
    """
    evidence.require("spectra", "alphalora")
    weights = tuple(alpha**settings.beta for alpha in evidence.layer_alphas())
    return Demand(weights=weights, granularity="layer", utility="log", released_rounding=settings.parity)
