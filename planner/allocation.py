"""`planner.allocate`: evidence and a budget in, a Plan out."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from planner.evidence.evidence import Evidence, gather
from planner.notes import notes
from planner.plan import Budget, Optimum, Plan, PlannedSite, Source
from planner.sensitivity.report import SensitivityReport
from planner.settings import AllocationSettings
from planner.solver.apportion import largest_remainder, released_rounding
from planner.solver.budget import Cap, parse_budget
from planner.solver.knapsack import Solution, reaches, solve
from planner.solver.options import Cut, cut_for, groups, menus, wanted
from planner.strategies import STRATEGIES, Demand
from planner.strategies.demand import utility
from spectra import Checkpoint, InputError, SpectraReport

Ranks = list[tuple[int, ...]]
WORTH = 1e-9  # relative, against rounding


def allocate(
    *,
    budget: str,
    strategy: str = "combined",
    spectra: SpectraReport | None = None,
    sensitivity: SensitivityReport | None = None,
    model: Checkpoint | None = None,
    **knobs: Any,
) -> Plan:
    """Decide experts and ranks for every linear module inside the model's layers.

    Args:
        budget: trainable parameters (`2000000`, `2M`), a share of the model (`1%`), a rank at every site (`rank 8`), the
            least that the strategy values as much (`worth rank 8`), experts (`160 experts`), or the path of a plan whose size
            is meant.
        strategy: a name from the table in `planner.strategies`.
        spectra: alphas, if the strategy uses them.
        sensitivity: gradients and routing, if the strategy uses them.
        model: the opened checkpoint; names and shapes come from it if given.
        **knobs: fields of `AllocationSettings`, such as `expert_rank=4`.

    Raises:
        InputError: missing or contradictory evidence, an unknown strategy, limits that contradict each other, or a budget too
            small for the least rank of every site.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"strategy {strategy!r}: not one of {', '.join(STRATEGIES)}")
    settings = AllocationSettings.checked(knobs, "allocation settings")
    evidence = gather(spectra, sensitivity, model, estimator=settings.estimator, statistic=settings.statistic)
    cap = _cap(budget, evidence)
    demand = _upper(STRATEGIES[strategy](evidence, settings), evidence, settings.depth)
    if not any(demand.weights):
        raise InputError(f"strategy {strategy!r} wants nothing at any site of {evidence.model.name}")
    if cap.worth:
        cap = _least_worth(evidence, demand, cap, settings)
    cut = cut_for(evidence, demand, cap, settings)
    solution = None
    if (demand.experts is not None or cap.unit == "experts") and any(
        site.expert is not None for site in wanted(evidence, demand)
    ):
        raise InputError(
            f"{evidence.model.name} has routed experts of its own, which take one LoRA each: no number of LoRA experts can be"
            " prescribed; give the budget in parameters or as a rank, without --parity"
        )
    if demand.experts is not None:
        ranks = _literal(demand, cut)
    elif cap.unit == "experts":
        ranks = _count_experts(evidence, demand, cap, cut)
    else:
        ranks, solution = _spend_parameters(evidence, demand, cap, cut, settings)
    if not any(ranks):
        raise InputError(f"budget {cap.request!r} buys no rank at any site under these limits")
    granularity = settings.granularity or demand.granularity
    used = settings.model_copy(
        update={"expert_rank": cut.expert_rank, "max_experts": cut.max_experts, "granularity": granularity}
    )
    made_from = tuple(Source(kind=report.kind, sha256=report.sha256()) for report in (spectra, sensitivity) if report is not None)
    return _plan(evidence, demand, cap, ranks, strategy, used, made_from, solution)


def _cap(budget: str, evidence: Evidence) -> Cap:
    if budget.endswith(".json"):
        return Cap(request=f"size of {budget}", unit="parameters", amount=Plan.load(budget).parameters)
    return parse_budget(budget, parameters=evidence.model.parameters, rank_cost=sum(site.rank_cost for site in evidence.sites))


def _upper(demand: Demand, evidence: Evidence, depth: float) -> Demand:
    """Leave the layers below the upper share without anything."""
    below = evidence.below(depth)
    weights = tuple(0.0 if low else weight for weight, low in zip(demand.weights, below, strict=True))
    experts = demand.experts and tuple(0 if low else count for count, low in zip(demand.experts, below, strict=True))
    return replace(demand, weights=weights, experts=experts)


def _literal(demand: Demand, cut: Cut) -> Ranks:
    """As many experts of the given rank as a released method prescribes."""
    return [(cut.expert_rank,) * count for count in demand.experts or ()]


def _spend_parameters(
    evidence: Evidence, demand: Demand, cap: Cap, cut: Cut, settings: AllocationSettings
) -> tuple[Ranks, Solution]:
    members = groups(evidence, demand, settings.granularity or demand.granularity)
    offered = menus(evidence, demand, cap, cut, settings, members)
    if (floor := int(sum(menu.kind.costs[0] for menu, _ in offered))) > cap.amount:
        least = max(totals[0] for _, totals in offered)
        raise InputError(
            f"budget {cap.request!r} ({cap.amount:,} parameters) is too small for {'one rank' if least == 1 else f'rank {least}'}"
            f" at each of the {len(wanted(evidence, demand))} sites, which takes {floor:,}"
            + ("; --min-rank 0 lets sites go without" if demand.utility != "log" and settings.min_rank != 0 else "")
        )
    solution = solve([menu for menu, _ in offered], cap.amount)
    ranks: Ranks = [()] * len(evidence.sites)
    for group, (_, totals), pick in zip(members, offered, solution.picks, strict=True):
        for position in group:
            ranks[position] = cut.ranks(totals[pick], evidence.sites[position].expert)
    return ranks, solution


def _least_worth(evidence: Evidence, demand: Demand, cap: Cap, settings: AllocationSettings) -> Cap:
    """The fewest parameters, to a thousandth, for which the strategy's own objective reaches that of the cap's rank everywhere.

    Raises:
        InputError: literal counts, which know no objective, or limits on ranks that keep any plan below it.
    """
    if demand.experts is not None:
        raise InputError(f"budget {cap.request!r} compares plans by their worth, which prescribed counts of experts do not have")
    prices = np.array([site.rank_cost for site in evidence.sites])
    appetite = np.array(demand.weights) / max(demand.weights)
    target = float(appetite @ prices) * float(utility(demand.utility, np.array([1.0 * cap.worth]))[-1])

    def enough(amount: int) -> bool:
        tried = replace(cap, amount=amount)
        members = groups(evidence, demand, settings.granularity or demand.granularity)
        offered = [
            menu for menu, _ in menus(evidence, demand, tried, cut_for(evidence, demand, tried, settings), settings, members)
        ]
        return reaches(offered, amount, target * (1 - WORTH))

    low, high = 0, 2 * cap.amount  # routers may cost more than a good place saves
    if not enough(high):
        raise InputError(f"budget {cap.request!r}: no plan within these limits on ranks is worth that much")
    while high - low > max(1, cap.amount // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return replace(cap, amount=high)


def _count_experts(evidence: Evidence, demand: Demand, cap: Cap, cut: Cut) -> Ranks:
    """AlphaLoRA's way to spend: a layer's share of the experts is its share of the weight; its wanted sites share that count."""
    layers = [[position for position in layer if demand.weights[position] > 0] for layer in evidence.layers.values()]
    layers = [layer for layer in layers if layer]
    low, high = len(layers), len(layers) * cut.max_experts
    weights = [float(np.mean([demand.weights[position] for position in layer])) for layer in layers]
    if demand.released_rounding:
        counts = released_rounding(weights, cap.amount)
    elif low <= cap.amount <= high:
        counts = largest_remainder(weights, cap.amount, cut.max_experts)
    else:
        raise InputError(
            f"budget {cap.request!r} does not fit {low} layers of 1 to {cut.max_experts} experts, which is {low} to {high}"
            "; see --max-experts"
        )
    ranks: Ranks = [()] * len(evidence.sites)
    for layer, count in zip(layers, counts, strict=True):
        for position in layer:
            ranks[position] = (cut.expert_rank,) * count
    return ranks


def _plan(
    evidence: Evidence,
    demand: Demand,
    cap: Cap,
    ranks: Sequence[tuple[int, ...]],
    strategy: str,
    settings: AllocationSettings,
    made_from: tuple[Source, ...],
    solution: Solution | None,
) -> Plan:
    mean = float(np.mean(demand.weights))
    sites = tuple(
        PlannedSite(
            name=site.name,
            shape=site.shape,
            ranks=given,
            top_k=min(settings.top_k, len(given)),
            weight=weight / mean,
            alpha=site.alpha.mean,
            sensitivity=float(np.mean([task.mean for task in site.sensitivity])) if site.sensitivity else np.nan,
            routing=site.routing,
            benefit=float(np.mean([task.mean for task in site.benefit])) if site.benefit else np.nan,
        )
        for site, weight, given in zip(evidence.sites, demand.weights, ranks, strict=True)
    )
    parameters = sum(site.parameters for site in sites)
    spent = parameters
    if cap.unit == "experts":
        spent = sum(max(len(ranks[member]) for member in layer) for layer in evidence.layers.values())
    if spent > cap.amount:
        raise InputError(
            f"strategy {strategy!r} takes {spent:,} {cap.unit} as released, more than the budget {cap.request!r};"
            " raise the budget or leave --parity out"
        )
    return Plan(
        model=evidence.model,
        strategy=strategy,
        settings=settings,
        version=version("loraplan"),
        made_from=made_from,
        budget=Budget(request=cap.request, unit=cap.unit, cap=cap.amount, spent=spent, parameters=parameters),
        optimum=_optimum(demand, solution),
        sites=sites,
        notes=(*evidence.notes, *notes(strategy, evidence, sites, cap, parameters, settings.depth)),
    )


def _optimum(demand: Demand, solution: Solution | None) -> Optimum | None:
    if solution is None:
        return None
    gap = (solution.bound - solution.objective) / abs(solution.bound) if solution.bound else 0.0
    return Optimum(utility=demand.utility, objective=solution.objective, bound=solution.bound, gap=gap)
