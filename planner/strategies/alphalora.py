"""`alphalora`: capacity by layer in proportion to alpha^beta (Qing et al., EMNLP 2024, arXiv 2410.10054).

A larger alpha means a lighter tail, a less well trained layer, and more experts. The proportional rule is the optimum of the
utility log(x) with weights alpha^beta, which is how it fits a budget of parameters.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.documents import Value


class AlphaLoraSettings(Value):
    """The rule's own settings."""

    published_estimator: ClassVar[str] = "peak"  # whose alphas the released code takes
    beta: Annotated[float, Field(gt=0, le=100)] = 2.5
    """Exponent of alpha. A larger one favours the layers with large alphas more."""
    parity: bool = False
    """Repair rounding as the released code does, instead of fairly."""


def alphalora(evidence: Evidence, settings: AlphaLoraSettings) -> Demand:
    """Weight each layer by the plain mean of its matrices' alphas, raised to beta.

    Raises:
        InputError: no spectra.
    """
    evidence.require("spectra", "alphalora")
    weights = tuple(alpha**settings.beta for alpha in evidence.layer_alphas())
    return Demand(weights=weights, granularity="layer", utility="log", released_rounding=settings.parity)
