"""`planner.allocate`: evidence and a budget in, a Plan out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.apportion import largest_remainder
from planner.budget import Cap, parse_budget, site_cost
from planner.evidence import Evidence, SiteEvidence, gather
from planner.plan import Budget, Optimum, Plan, PlannedSite
from planner.reports import SensitivityReport
from planner.solver import Menu, Solution, solve
from planner.strategies import STRATEGIES, Demand
from spectra import Checkpoint, InputError, SpectraReport

DEFAULT_EXPERT_RANK = 8  # what AlphaLoRA, LoRA-SMoE and MoLA train with
CEILING = 8  # no site gets more than this many times the affordable mean rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a site's total rank is cut into experts."""

    expert_rank: int
    """Rank an expert grows to before the next one is added."""
    max_experts: int
    top_k: int

    def ranks(self, total: int, experts: int | None = None) -> tuple[int, ...]:
        """Cut a total rank into experts that differ by at most one rank; `experts` overrides how many."""
        count = experts if experts is not None else min(self.max_experts, -(-total // self.expert_rank))
        if count == 0:
            return ()
        rank, larger = divmod(total, count)
        return (rank + 1,) * larger + (rank,) * (count - larger)


def allocate(
    *,
    budget: str,
    strategy: str = "combined",
    spectra: SpectraReport | None = None,
    sensitivity: SensitivityReport | None = None,
    model: Checkpoint | None = None,
    expert_rank: int | None = None,
    max_experts: int = 8,
    top_k: int = 2,
) -> Plan:
    """Decide experts and ranks for every linear module inside the model's layers.

    Args:
        budget: trainable parameters (`2000000`, `2M`), a share of the model (`1%`) or experts (`160 experts`).
        strategy: a name from the table in `planner.strategies`.
        spectra: alphas, if the strategy uses them.
        sensitivity: gradients, if the strategy uses them.
        model: the opened checkpoint; names and shapes come from it if given.
        expert_rank: rank of one expert. By default 8, or for a tight budget of parameters the largest power of two that
            leaves an average site two experts.
        max_experts: most experts per site.
        top_k: experts that a token uses, where there are as many.

    Raises:
        InputError: missing or contradictory evidence, an unknown strategy, or a budget too small for one rank at every site.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {strategy!r}: not one of {', '.join(STRATEGIES)}")
    evidence = gather(spectra, sensitivity, model)
    cap = parse_budget(budget, evidence.model.parameters)
    demand = STRATEGIES[strategy](evidence)
    rank = expert_rank or (DEFAULT_EXPERT_RANK if cap.unit == "experts" else _expert_rank(evidence, demand, cap))
    if rank > (side := min(min(site.shape) for site in evidence.sites)):
        raise InputError(f"expert rank {rank} exceeds the smallest side of a site, {side}")
    shape = Shape(expert_rank=rank, max_experts=max_experts, top_k=top_k)
    solution = None
    if cap.unit == "experts":
        ranks = _count_experts(evidence, demand, cap, shape)
    else:
        ranks, solution = _spend_parameters(evidence, demand, cap, shape)
    settings: dict[str, str | int | float] = {"expert_rank": rank, "max_experts": max_experts, "top_k": top_k}
    settings |= {"utility": demand.utility, "granularity": demand.granularity}
    return _plan(evidence, demand, cap, ranks, strategy, settings, solution)


def _rank_cost(sites: Sequence[SiteEvidence]) -> int:
    return sum(sum(site.shape) for site in sites)


def _wanted(evidence: Evidence, demand: Demand) -> list[SiteEvidence]:
    return [site for site, weight in zip(evidence.sites, demand.weights, strict=True) if weight > 0]


def _mean_rank(evidence: Evidence, demand: Demand, cap: Cap) -> float:
    """Total rank per wanted site that the cap affords, routers aside."""
    return cap.amount / max(1, _rank_cost(_wanted(evidence, demand)))


def _expert_rank(evidence: Evidence, demand: Demand, cap: Cap) -> int:
    affordable = int(_mean_rank(evidence, demand, cap) / 2)
    return min(DEFAULT_EXPERT_RANK, 1 << max(0, affordable.bit_length() - 1))


def _groups(evidence: Evidence, demand: Demand) -> list[list[int]]:
    """Positions of the sites that share one decision; sites of weight 0 are in no group."""
    if demand.granularity == "layer":
        groups = list(evidence.layers.values())
    elif demand.granularity == "model":
        groups = [list(range(len(evidence.sites)))]
    else:
        groups = [[position] for position in range(len(evidence.sites))]
    kept = [[position for position in group if demand.weights[position] > 0] for group in groups]
    return [group for group in kept if group]


def _ranks_at(step: int, position: int, demand: Demand, shape: Shape) -> tuple[int, ...]:
    """Ranks of a site at a step of its ladder: a total rank or, with a prescribed number of experts, the rank of each."""
    if demand.experts is None:
        return shape.ranks(step)
    return (step,) * demand.experts[position]


def _spend_parameters(evidence: Evidence, demand: Demand, cap: Cap, shape: Shape) -> tuple[list[tuple[int, ...]], Solution]:
    groups = _groups(evidence, demand)
    menus = [_menu(evidence, group, demand, cap, shape) for group in groups]
    if (floor := int(sum(menu.costs[0] for menu in menus))) > cap.amount:
        raise InputError(
            f"budget {cap.request!r} ({cap.amount:,} parameters) is too small for one rank at each of the"
            f" {len(_wanted(evidence, demand))} sites, which takes {floor:,}"
        )
    solution = solve(menus, cap.amount)
    ranks: list[tuple[int, ...]] = [()] * len(evidence.sites)
    for group, pick in zip(groups, solution.picks, strict=True):
        for position in group:
            ranks[position] = _ranks_at(pick + 1, position, demand, shape)
    return ranks, solution


def _menu(evidence: Evidence, group: Sequence[int], demand: Demand, cap: Cap, shape: Shape) -> Menu:
    """Every step of a group's ladder, from one rank up, with its cost and its value."""
    sites = [evidence.sites[position] for position in group]
    largest = min(min(site.shape) for site in sites)
    top = max(1, min(largest, int(CEILING * _mean_rank(evidence, demand, cap)) + 1))
    steps = range(1, top + 1)
    costs = [
        sum(site_cost(evidence.sites[position].shape, _ranks_at(step, position, demand, shape)) for position in group)
        for step in steps
    ]
    totals = np.array(steps, dtype=float)
    utility = np.log1p(totals) if demand.utility == "log1p" else np.log(totals)
    weight = sum(demand.weights[position] for position in group) / np.mean(demand.weights)
    return Menu(np.array(costs, dtype=float), float(weight) * utility)


def _count_experts(evidence: Evidence, demand: Demand, cap: Cap, shape: Shape) -> list[tuple[int, ...]]:
    """AlphaLoRA's way to spend: a layer's share of the experts is its share of the weight; its wanted sites share that count."""
    layers = [[position for position in layer if demand.weights[position] > 0] for layer in evidence.layers.values()]
    layers = [layer for layer in layers if layer]
    low, high = len(layers), len(layers) * shape.max_experts
    if not low <= cap.amount <= high:
        raise InputError(
            f"budget {cap.request!r} does not fit {low} layers of 1 to {shape.max_experts} experts, which is {low} to {high}"
            "; see --max-experts"
        )
    weights = [float(np.mean([demand.weights[position] for position in layer])) for layer in layers]
    ranks: list[tuple[int, ...]] = [()] * len(evidence.sites)
    for layer, count in zip(layers, largest_remainder(weights, cap.amount, shape.max_experts), strict=True):
        for position in layer:
            ranks[position] = (shape.expert_rank,) * count
    return ranks


def _plan(
    evidence: Evidence,
    demand: Demand,
    cap: Cap,
    ranks: Sequence[tuple[int, ...]],
    strategy: str,
    settings: dict[str, str | int | float],
    solution: Solution | None,
) -> Plan:
    mean = float(np.mean(demand.weights))
    sites = tuple(
        PlannedSite(
            name=site.name,
            shape=site.shape,
            ranks=given,
            top_k=min(int(settings["top_k"]), len(given)),
            weight=weight / mean,
            alpha=site.alpha,
            sensitivity=float(np.mean(site.sensitivity)) if site.sensitivity else np.nan,
        )
        for site, weight, given in zip(evidence.sites, demand.weights, ranks, strict=True)
    )
    parameters = sum(site.parameters for site in sites)
    spent = (
        parameters
        if cap.unit == "parameters"
        else sum(max(len(ranks[member]) for member in layer) for layer in evidence.layers.values())
    )
    return Plan(
        model=evidence.model,
        strategy=strategy,
        settings=settings,
        budget=Budget(request=cap.request, unit=cap.unit, cap=cap.amount, spent=spent, parameters=parameters),
        optimum=_optimum(solution),
        sites=sites,
        notes=(*evidence.notes, *_notes(strategy, sites, cap, parameters)),
    )


def _optimum(solution: Solution | None) -> Optimum | None:
    if solution is None:
        return None
    gap = (solution.bound - solution.objective) / abs(solution.bound) if solution.bound else 0.0
    return Optimum(objective=solution.objective, bound=solution.bound, gap=gap)


def _notes(strategy: str, sites: Sequence[PlannedSite], cap: Cap, parameters: int) -> tuple[str, ...]:
    if cap.unit == "parameters" and parameters < cap.amount / 2:
        return ("most of the budget is left: it buys less than one more rank per group, or ranks are as large as modules allow",)
    if strategy != "uniform" and len({site.ranks for site in sites}) == 1:
        return ("after rounding, this plan is the uniform one: the evidence made no difference at this budget",)
    return ()
