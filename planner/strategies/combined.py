"""`combined`: what spectra and gradients suggest, corrected by what a rehearsal measured, each trusted as far as it deserves.

The plain product of alpha and sensitivity loses to uniform at equal parameters, mostly by starving sites. So both are compared
within their projection type, shrunk by their measured noise, and their product is tempered until it hardly moves a rank; a
routed expert counts by the square root of the share of tokens that reach it. That is the prior.

A rehearsal (`plan probe`) trains every module a little and says what each one's adapter brought, per parameter. Each site moves
half-way from the prior to that measurement, or less as the measurement's error demands: where a rehearsal learns nothing the plan
stays near uniform, where it learns a lot the plan leans to what learned. The utility saturates, and the solver keeps one rank at
every module that all tokens pass. A module gets one LoRA unless the user asks for more experts: at equal size routers
brought nothing on single tasks, and on language models cost. docs/experiments.md has what this won and where it did not.
"""

from planner.evidence.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.demand import Demand

TRUST, USE = 0.125, 0.5


def combined(evidence: Evidence, settings: AllocationSettings) -> Demand:
    """Prior sqrt(use) (alpha g2)^trust, moved towards the measured benefit per parameter; several tasks count by their mean.

    Raises:
        InputError: no spectra, no sensitivity, or none of routed experts' use.
    """
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    product = evidence.relative_alpha() * evidence.relative_sensitivity()
    prior = evidence.use() ** USE * product**TRUST
    return Demand(weights=tuple(evidence.appetite(prior).tolist()), spares_experts=True, plain=True)
