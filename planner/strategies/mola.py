"""`mola`: more experts at some depths than at others, whatever the model (Gao et al., NAACL Findings 2025, arXiv 2402.08562)."""

from typing import Annotated

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.documents import Value
from spectra.core.methods import OneOf

QUARTERS = {
    "rectangle": (5, 5, 5, 5),
    "inverted-triangle": (2, 4, 6, 8),
    "triangle": (8, 6, 4, 2),
    "hourglass": (8, 2, 2, 8),
    "diamond": (2, 8, 8, 2),
}


class MolaSettings(Value):
    """The rule's own settings."""

    shape: Annotated[str, OneOf(QUARTERS, "shape")] = "inverted-triangle"
    """Experts by quarter of the depth: rectangle 5555, inverted-triangle 2468, triangle 8642, hourglass 8228, diamond 2882."""
    parity: bool = False
    """Give literally these numbers of experts, whatever the budget would buy."""


def mola(evidence: Evidence, settings: MolaSettings) -> Demand:
    """Capacity by quarter of the depth in the published proportions, which with parity are numbers of experts."""
    stacks: dict[str, list[int]] = {}
    for stack, layer in evidence.layers:
        stacks.setdefault(stack, []).append(layer)
    counts = []
    for site in evidence.sites:
        depth = stacks[site.layer[0]].index(site.layer[1])
        counts.append(QUARTERS[settings.shape][4 * depth // len(stacks[site.layer[0]])])
    experts = tuple(counts) if settings.parity else None
    return Demand(weights=tuple(map(float, counts)), granularity="layer", utility="log", experts=experts)
