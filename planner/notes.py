"""What a reader should know before trusting a plan."""

from collections.abc import Iterator, Sequence

import numpy as np

from planner.budget import Cap
from planner.evidence import Evidence
from planner.plan import PlannedSite

DEPTH_RULE = 0.9  # rank correlation of a layer's capacity with its depth


def notes(strategy: str, evidence: Evidence, sites: Sequence[PlannedSite], cap: Cap, parameters: int) -> Iterator[str]:
    """Money left over, and plans that are a simpler rule in disguise."""
    if cap.unit == "parameters" and parameters < cap.amount / 2:
        yield "most of the budget is left: it buys less than one more rank per group, or ranks are as large as modules allow"
    if strategy == "uniform":
        return
    if len({site.ranks for site in sites}) == 1:
        yield "after rounding, this plan is the uniform one: the evidence made no difference at this budget"
    elif strategy != "mola" and (rho := _correlation_with_depth(evidence, sites)) is not None and abs(rho) >= DEPTH_RULE:
        direction = "more" if rho > 0 else "less"
        yield f"after rounding, this plan is nearly a depth rule: {direction} with depth (rank correlation {rho:+.2f})"


def _correlation_with_depth(evidence: Evidence, sites: Sequence[PlannedSite]) -> float | None:
    """Spearman's, of a layer's parameters with its position; None with several stacks, with few layers or equal ones."""
    totals = [sum(sites[member].parameters for member in members) for members in evidence.layers.values()]
    if len({stack for stack, _ in evidence.layers}) > 1 or len(totals) < 4 or len(set(totals)) == 1:
        return None
    from scipy.stats import spearmanr  # takes a moment to import

    return float(spearmanr(np.arange(len(totals)), totals).statistic)
