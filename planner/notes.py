"""What a reader should know before trusting a plan."""

from collections.abc import Iterator, Sequence

import numpy as np

from planner.evidence.evidence import Evidence
from planner.evidence.shrinkage import is_told
from planner.plan import PlannedSite
from planner.solver.budget import Cap

SPENT = 0.9  # share of the budget below which a plan says what is left
DEPTH_RULE = 0.9  # rank correlation of a layer's capacity with its depth


def notes(
    strategy: str, evidence: Evidence, sites: Sequence[PlannedSite], cap: Cap, parameters: int, depth: float
) -> Iterator[str]:
    """Money left over, and plans that are a simpler rule in disguise."""
    if cap.unit == "parameters" and parameters < SPENT * cap.amount:
        yield (
            f"{1 - parameters / cap.amount:.0%} of the budget is left: one more step for all modules that share an answer"
            " does not fit, or a limit on ranks is reached; the smallest steps are those of --max-experts 1 --granularity module"
        )
    if strategy == "combined":
        yield from _rehearsed(evidence)
    if any(site.routed for site in sites):
        yield from _experience_with_experts(strategy)
    if mixtures := sum(len(site.ranks) > 1 for site in sites):
        yield (
            f"{mixtures} of {len(sites)} sites are mixtures with routers: in our study one LoRA did as well on single tasks"
            " (docs/experiments.md)"
        )
    if strategy == "uniform":
        return
    if len({site.ranks for site in sites}) == 1:
        yield "after rounding, this plan is the uniform one: the evidence made no difference at this budget and these limits"
        return
    if strategy != "mola" and (rho := _correlation_with_depth(evidence, sites)) is not None and abs(rho) >= DEPTH_RULE:
        direction = "more" if rho > 0 else "less"
        yield f"after rounding, this plan is nearly a depth rule: {direction} with depth (rank correlation {rho:+.2f})"
    if not any(site.routed for site in sites):
        yield from _experience(strategy, evidence, sites, depth)


def _experience_with_experts(strategy: str) -> Iterator[str]:
    """What our study, of one small model, found for routed experts."""
    better = "such plans" if strategy == "combined" else "plans of `combined`"
    yield (
        f"in our study {better} beat uniform at equal size where experts are routed (docs/experiments.md);"
        " plan compare tells for your task"
    )


def _rehearsed(evidence: Evidence) -> Iterator[str]:
    """Where `combined` had no measured benefit to follow."""
    told = [is_told(task) for task in evidence.benefits()]
    if not told:
        yield (
            "made without a rehearsal, from spectra and gradients alone: in our study one paid on language models, not on"
            " classifiers"
        )
    elif not any(told):
        yield (
            "the rehearsal gained no more than noise, so the plan follows spectra and gradients alone; give plan probe more"
            " steps (--rehearse) or the learning rate that you will train with"
        )


def _experience(strategy: str, evidence: Evidence, sites: Sequence[PlannedSite], depth: float) -> Iterator[str]:
    """What our study found for dense models."""
    below = evidence.below(depth)
    if any(below):
        layers = {site.layer for site, low in zip(evidence.sites, below, strict=True) if low}
        yield f"the lowest {len(layers)} of {len(evidence.layers)} layers get nothing and need no backward pass"
    if starved := sum(not site.ranks and not low for site, low in zip(sites, below, strict=True)):
        yield (
            f"{starved} of {len(sites)} sites get nothing: in our study plans that left modules out lost two points of"
            " accuracy to uniform on average (docs/experiments.md)"
        )
    elif strategy == "combined" and evidence.sites[0].benefit:
        yield (
            "in our study such plans were level with uniform at equal size on dense models, or a little ahead"
            " (docs/experiments.md); plan compare tells for your task"
        )
    else:
        yield (
            "in our study no strategy without a rehearsal beat uniform at equal size on a dense model (docs/experiments.md);"
            " plan compare tells for your task"
        )


def _correlation_with_depth(evidence: Evidence, sites: Sequence[PlannedSite]) -> float | None:
    """Spearman's, of a layer's parameters with its position; None with several stacks, with few layers or equal ones."""
    totals = [sum(sites[member].parameters for member in members) for members in evidence.layers.values()]
    if len({stack for stack, _ in evidence.layers}) > 1 or len(totals) < 4 or len(set(totals)) == 1:
        return None
    from scipy.stats import spearmanr  # takes a moment to import

    return float(spearmanr(np.arange(len(totals)), totals).statistic)
