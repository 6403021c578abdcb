"""`dr-lora`: per-expert ranks by routing demand and gradient importance (DR-LoRA, arXiv 2601.04823), planned instead of grown.

Training grows the experts with the largest saliency S = f g / (r+1)^gamma, event by event (planner/strategies/growth.py). This
plan is where that would end if f and g stood still at what `plan probe` measured: every layer's experts have the same mean rank,
start with half of it and reach at most twice of it.
"""

import numpy as np
from numpy.typing import NDArray

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from planner.strategies.growth import GrowthRule
from spectra import InputError
from spectra.checkpoint.names import live_name

Floats = NDArray[np.float64]
ADAPTED = ("up_proj", "down_proj")  # the published setting leaves gates alone


def dr_lora(evidence: Evidence, settings: GrowthRule) -> Demand:
    """Weights f g, each normalised within the layer.

    In a mixture-of-experts model: f is the expert's share of the tokens that count, g its sensitivity averaged over its adapted
    projections, and all else gets nothing. In a dense model every module is its own expert with f = 1.

    Raises:
        InputError: no sensitivity, or none of the shares that `growth_tokens` asks for.
    """
    evidence.require("sensitivity", "dr-lora")
    routed = any(site.expert is not None for site in evidence.sites)
    gradient = evidence.sensitivities()
    # Over each task's sum, so that tasks weigh alike whatever the scale of their losses; one of zeros stays zero.
    gradient = (gradient / np.maximum(gradient.sum(axis=0), np.finfo(float).tiny)).mean(axis=1)
    demand = np.array([site.share_of(settings.growth_tokens) for site in evidence.sites])
    if routed and settings.growth_tokens == "all" and np.isnan(demand).all(where=demand != 1.0):
        raise InputError("`growth_tokens` all: the sensitivity report knows shares of learned tokens alone; make it anew")
    # By live names, because Mixtral's checkpoints call the same projections w3 and w2.
    wanted = np.array(
        [not routed or (site.expert is not None and live_name(site.name).endswith(ADAPTED)) for site in evidence.sites]
    )
    weights = np.zeros(len(evidence.sites))
    for members in evidence.layers.values():
        chosen = np.array([member for member in members if wanted[member]], dtype=np.intp)
        if chosen.size:
            importance = _by_expert(evidence, chosen, gradient[chosen]) if routed else gradient[chosen]
            weights[chosen] = _share(demand[chosen]) * _share(importance)
    return Demand(weights=tuple(weights.tolist()), granularity="expert" if routed else "module", growth=settings)


def _by_expert(evidence: Evidence, chosen: NDArray[np.intp], gradient: Floats) -> Floats:
    """Each site's value replaced by the mean over its expert's sites."""
    experts = np.array([evidence.sites[member].expert for member in chosen])
    return np.array([gradient[experts == expert].mean() for expert in experts])


def _share(values: Floats) -> Floats:
    # A little of the mean for everybody: with a share of 0 a site would get nothing even where ranks have a minimum.
    share: Floats = (values + 1e-6 * values.mean()) / max(float(values.sum()), np.finfo(float).tiny)
    return share
