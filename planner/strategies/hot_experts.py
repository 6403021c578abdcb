"""`hot-experts`: LoRA on the most routed quarter of every layer's experts, evenly, and on nothing else.

A baseline for finer rules: published results place a quarter of the experts' adapters this way at little or no loss (MoE-Sieve,
arXiv 2603.24044; HELLoRA, 2605.18795).
"""

import math
from typing import Annotated

from pydantic import Field

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra import InputError
from spectra.core.documents import Value


class HotExpertsSettings(Value):
    """The rule's own settings."""

    hot_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a layer's experts that get LoRA, the most routed ones."""


def hot_experts(evidence: Evidence, settings: HotExpertsSettings) -> Demand:
    """Equal weight for the experts with the largest shares of tokens, per layer; ties go to the lower number.

    Raises:
        InputError: no sensitivity report, or one without routed experts.
    """
    evidence.require("sensitivity", "hot-experts")
    if not any(math.isfinite(site.token_share) for site in evidence.sites):
        raise InputError(
            "strategy 'hot-experts': the sensitivity report knows no routed experts; it is for mixture-of-experts models"
        )
    weights = [0.0] * len(evidence.sites)
    for members in evidence.layers.values():
        shares = {
            evidence.sites[at].expert: evidence.sites[at].token_share for at in members if evidence.sites[at].expert is not None
        }
        hot = sorted(shares, key=lambda expert: (-shares[expert], expert))[: math.ceil(settings.hot_share * len(shares))]
        for at in members:
            if evidence.sites[at].expert in hot and evidence.sites[at].expert is not None:
                weights[at] = 1.0
    return Demand(weights=tuple(weights), granularity="model")
