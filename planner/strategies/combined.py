"""`combined`: what spectra and gradients suggest, corrected by what a trial run measured, each trusted as far as it deserves.

The plain product of alpha and sensitivity loses to uniform at equal parameters, mostly by starving sites. So both are compared
within their projection type, shrunk by their measured noise, and their product is tempered until it hardly moves a rank; a
routed expert counts by the square root of the share of tokens that reach it. That is the prior.

A trial run (`plan probe`) trains every module a little and measures how much each one's adapter took off the loss, per parameter.
Each site moves half-way from the prior to that measurement, or less as the measurement's error demands: where a trial run learns
nothing the plan stays near uniform, where it learns a lot the plan leans to what learned. The utility saturates, and the solver
keeps one rank at every module that all tokens pass. A module gets one LoRA unless the user asks for more experts: at equal size
routers brought nothing on single tasks, and on language models cost. docs/experiments has what this won and where it did not.
"""

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra import InputError
from spectra.core.documents import Value

TEMPER = 0.125  # power of the product: by itself it ranks no better than chance on most tasks
SHARE_POWER = 0.5  # a whole share would count twice what the squared gradient says already


class CombinedSettings(Value):
    """The rule's own settings."""

    incomplete: bool = False
    """Also plan from a trial run whose modules' loss reductions miss more than a twentieth of what it gained."""


def combined(evidence: Evidence, settings: CombinedSettings) -> Demand:
    """Prior sqrt(token share) (alpha g^2)^temper, moved towards the measured loss reduction per parameter.

    Several tasks count by their mean.

    Raises:
        InputError: no spectra, no sensitivity, no token shares of routed experts, or a trial run that is incomplete.
    """
    if evidence.incomplete and not settings.incomplete:
        task, gap = next(iter(evidence.incomplete.items()))
        raise InputError(
            f"trial run of {task!r}: the modules' loss reductions miss {gap:.0%} of what it gained; probe again with a smaller"
            " learning rate or fewer `trial_steps`, or set `incomplete` to plan from it"
        )
    evidence.require("spectra", "combined")
    evidence.require("sensitivity", "combined")
    product = evidence.relative_alpha() * evidence.relative_sensitivity()
    prior = evidence.token_shares() ** SHARE_POWER * product**TEMPER
    return Demand(weights=tuple(evidence.weights(prior).tolist()), spares_routed=True, plain=True)
