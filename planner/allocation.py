"""`planner.allocate`: evidence and a budget in, a Plan out."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from planner.evidence.evidence import Evidence, gather
from planner.notes import notes
from planner.plan import Budget, Optimum, Plan, PlannedSite, Source
from planner.sensitivity.report import SensitivityReport
from planner.settings import AllocationSettings
from planner.solver.apportion import largest_remainder, released_rounding
from planner.solver.budget import BudgetLimit, parse_budget
from planner.solver.grown import grown_ranks
from planner.solver.knapsack import Solution, reaches, solve
from planner.solver.options import ExpertSplit, expert_split, option_sets
from planner.solver.problem import Problem
from planner.strategies import STRATEGIES, Demand
from planner.strategies.demand import utility
from spectra import Checkpoint, InputError, SpectraReport, __version__
from spectra.checkpoint.chosen import chosen_modules

Ranks = list[tuple[int, ...]]  # of every site, one number per expert
NUMBERS = ("expert_rank", "max_experts", "min_rank", "max_rank", "rank_multiple", "granularity")  # of ranks and experts
MATCHED = 1e-9  # relative, against rounding


def allocate(
    budget: str,
    settings: AllocationSettings | None = None,
    *,
    spectra: SpectraReport | None = None,
    sensitivity: SensitivityReport | None = None,
    model: Checkpoint | None = None,
) -> Plan:
    r"""Decide experts and ranks for every linear module inside the model's layers.

    Args:
        budget: trainable parameters (`2000000`, `2M`), a share of the model (`1%`), a rank at every site (`rank 8`), experts
            (`160 experts`, `5 experts per layer`), the smallest budget whose plan matches a uniform rank by the strategy's own
            objective (`match rank 8`), or the path of a plan file to match in size.
        settings: the strategy and the limits on its answer; by default `combined`.
        spectra: alphas, if the strategy uses them.
        sensitivity: gradients and token shares, if the strategy uses them.
        model: the opened checkpoint; names and shapes come from it if given.

    Returns:
        A plan within the budget.

    Raises:
        InputError: missing or contradictory evidence, limits that contradict each other, or a budget too small for the minimum
            rank of every site.

    Example:
        >>> import tempfile, pathlib
        >>> table = pathlib.Path(tempfile.mkdtemp()) / "alphas.csv"
        >>> _ = table.write_text("name,rows,cols,alpha\nlayers.0.up,8,8,3\nlayers.1.up,8,8,6\n")
        >>> from spectra import load_spectra
        >>> plan = allocate("3 experts", AllocationSettings(strategy="alphalora"), spectra=load_spectra(table))
        >>> [len(site.ranks) for site in plan.sites]
        [1, 2]
    """
    settings = settings or AllocationSettings()
    settings = _with_estimator(settings, spectra)
    chosen = {name: getattr(settings, name) for name in ("estimator", "statistic", "modules")}
    evidence = gather(spectra, sensitivity, model, **chosen)
    problem = _problem(budget, evidence, settings)
    split = expert_split(problem)
    ranks, solution = _answer(problem, split)
    if not any(ranks):
        raise InputError(f"budget {budget!r} buys no rank at any site under these limits")
    # What the defaults came to, so that the plan's own settings say how it was made.
    used = {"expert_rank": split.expert_rank, "max_experts": split.max_experts, "granularity": problem.granularity}
    made_from = tuple(
        Source(kind=report.kind, sha256=report.sha256(), seconds=_seconds(report))
        for report in (spectra, sensitivity)
        if report is not None
    )
    return _plan(replace(problem, settings=settings.model_copy(update=used)), ranks, made_from, solution)


def _seconds(report: SpectraReport | SensitivityReport) -> float:
    """What a report's gradients and trial runs took; those of spectra, and of older versions, do not say."""
    if isinstance(report, SpectraReport):
        return 0.0
    times = [time for task in report.tasks for time in (task.seconds, task.trial_run.seconds if task.trial_run else 0.0)]
    return sum(time for time in times if math.isfinite(time))


def _with_estimator(settings: AllocationSettings, spectra: SpectraReport | None) -> AllocationSettings:
    """The settings, with the estimator that the strategy's authors use where none was asked for."""
    name = settings.strategy.name
    published = getattr(settings.strategy.settings, "published_estimator", None)
    if published is None or settings.estimator is not None or spectra is None or spectra.settings is None:
        return settings  # a table of alphas knows one only
    if any(published not in site.fits for site in spectra.sites):
        known = ", ".join(spectra.sites[0].fits)
        raise InputError(
            f"strategy {name!r} takes alphas by {published!r}, as its authors do; the report holds {known}: run plan analyze"
            f" with `precision` exact again, or choose another `estimator`"
        )
    return settings.model_copy(update={"estimator": published})


def _demand(evidence: Evidence, settings: AllocationSettings, asked: Sequence[bool]) -> Demand:
    """What the strategy wants of the modules that were asked for, and nothing of the others."""
    strategy = settings.strategy
    part = replace(evidence, sites=tuple(compress(evidence.sites, asked)))
    demand = STRATEGIES[strategy.name].run(part, strategy.settings)
    weights, experts = iter(demand.weights), iter(demand.experts or ())
    return replace(
        demand,
        weights=tuple(next(weights) if one else 0.0 for one in asked),
        experts=demand.experts and tuple(next(experts) if one else 0 for one in asked),
    )


def _require_effect(settings: AllocationSettings, demand: Demand, unit: str) -> None:
    """Refuse settings that change nothing about what this strategy does with a budget in this unit."""
    given = {name for name in NUMBERS if getattr(settings, name) != AllocationSettings.model_fields[name].default}
    name = settings.strategy.name
    if demand.growth is not None and (idle := sorted(given)):
        raise InputError(
            f"`{idle[0]}` has no effect on strategy {name!r}, whose ranks are grown; see `growth_start`, `growth_most`"
        )
    counted = demand.experts is not None or demand.released_rounding
    if counted and (idle := sorted(given & {"max_experts", "min_rank", "max_rank", "rank_multiple", "granularity"})):
        raise InputError(f"`{idle[0]}` has no effect with `parity`, which takes the counts of experts as released")
    if demand.released_rounding and unit != "experts":
        raise InputError("`parity` rounds a number of experts as released; give the budget in experts, such as 160 experts")


def _problem(budget: str, evidence: Evidence, settings: AllocationSettings) -> Problem:
    """Ask the strategy, read the budget, and refuse what cannot go together."""
    strategy = settings.strategy
    asked = [True] * len(evidence.sites)
    if settings.modules is not None:
        asked = chosen_modules([site.name for site in evidence.sites], settings.modules)
    demand = _upper(_demand(evidence, settings, asked), evidence, settings.depth)
    if not all(map(math.isfinite, demand.weights)):
        raise InputError(f"strategy {strategy.name!r} finds weights that are not finite; a value of the reports is too large")
    if not any(demand.weights):
        raise InputError(f"strategy {strategy.name!r} wants nothing at any site of {evidence.model.name}")
    limit = _limit(budget, evidence, asked, demand)
    _require_effect(settings, demand, limit.unit)
    problem = Problem(evidence=evidence, demand=demand, limit=limit, settings=settings)
    if problem.limit.match_rank:
        problem = problem.within(_least_matching(problem))
    counted = demand.experts is not None or problem.limit.unit == "experts"
    if counted and any(site.expert is not None for site in problem.wanted):
        raise InputError(
            f"{evidence.model.name} has routed experts of its own, which take one LoRA each: no number of LoRA experts can be"
            " prescribed; give the budget in parameters or as a rank, without `parity`"
        )
    return problem


def _limit(budget: str, evidence: Evidence, asked: Sequence[bool], demand: Demand) -> BudgetLimit:
    if budget.endswith(".json"):
        return BudgetLimit(request=f"size of {budget}", unit="parameters", amount=Plan.load(budget).parameters)
    sites = list(compress(evidence.sites, asked))
    layers = len({site.layer for site, weight in zip(evidence.sites, demand.weights, strict=True) if weight > 0})
    return parse_budget(
        budget, parameters=evidence.model.parameters, rank_cost=sum(site.rank_cost for site in sites), layers=layers
    )


def _upper(demand: Demand, evidence: Evidence, depth: float) -> Demand:
    """Leave the layers below the upper share without anything."""
    below = evidence.below(depth)
    weights = tuple(0.0 if low else weight for weight, low in zip(demand.weights, below, strict=True))
    experts = demand.experts and tuple(0 if low else count for count, low in zip(demand.experts, below, strict=True))
    return replace(demand, weights=weights, experts=experts)


def _answer(problem: Problem, split: ExpertSplit) -> tuple[Ranks, Solution | None]:
    """Ranks of every site: as many experts as a released method prescribes, a shared number of them, or what the solver finds."""
    if problem.demand.experts is not None:
        return [(split.expert_rank,) * count for count in problem.demand.experts], None
    if problem.demand.growth is not None:
        return [(rank,) if rank else () for rank in grown_ranks(problem, problem.demand.growth)], None
    if problem.limit.unit == "experts":
        return _count_experts(problem, split), None
    return _spend_parameters(problem, split)


def _spend_parameters(problem: Problem, split: ExpertSplit) -> tuple[Ranks, Solution]:
    # Checked before solving, while it is known how the budget was written and which setting would help.
    offered, limit = option_sets(problem, split), problem.limit
    if (floor := int(sum(options.table.costs[0] for options, _ in offered))) > limit.amount:
        least = max(totals[0] for _, totals in offered)
        raise InputError(
            f"budget {limit.request!r} ({limit.amount:,} parameters) is too small for"
            f" {'one rank' if least == 1 else f'rank {least}'} at each of the {len(problem.wanted)} sites, which takes {floor:,}"
            + ("; `min_rank` 0 lets sites go without" if problem.utility != "log" and problem.settings.min_rank != 0 else "")
        )
    solution = solve([options for options, _ in offered], limit.amount)
    ranks: Ranks = [()] * len(problem.evidence.sites)
    for group, (_, totals), choice in zip(problem.groups, offered, solution.chosen, strict=True):
        for position in group:
            ranks[position] = split.ranks(totals[choice], problem.evidence.sites[position].expert)
    return ranks, solution


def _least_matching(problem: Problem) -> int:
    """The fewest parameters, to a thousandth, whose plan reaches the objective that the limit's rank has everywhere.

    Raises:
        InputError: literal counts, which know no objective, or limits on ranks that keep any plan below it.
    """
    limit = problem.limit
    if problem.demand.experts is not None or problem.demand.growth is not None:
        raise InputError(
            f"budget {limit.request!r} compares plans by their objective, and {problem.settings.strategy.name!r} has none here"
        )
    prices = np.array([site.rank_cost for site in problem.evidence.sites])
    uniform = float(utility(problem.utility, np.array([1.0 * limit.match_rank]))[-1])
    target = float(problem.relative_weights @ prices) * uniform

    def enough(amount: int) -> bool:
        # The experts' rank and the ceiling follow the budget, so each amount has options of its own.
        tried = problem.within(amount)
        offered = [options for options, _ in option_sets(tried, expert_split(tried))]
        return reaches(offered, amount, target * (1 - MATCHED))

    low, high = 0, 2 * limit.amount  # routers may cost more than a good place saves
    if not enough(high):
        raise InputError(f"budget {limit.request!r}: no plan within these limits on ranks reaches that objective")
    while high - low > max(1, limit.amount // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _count_experts(problem: Problem, split: ExpertSplit) -> Ranks:
    """AlphaLoRA's way to spend: a layer's share of the experts is its share of the weight; its wanted sites share that count."""
    weights, limit = problem.demand.weights, problem.limit
    layers = [[position for position in layer if weights[position] > 0] for layer in problem.evidence.layers.values()]
    layers = [layer for layer in layers if layer]
    low, high = len(layers), len(layers) * split.max_experts
    # The mean and not the sum: a layer with more projections is no reason for more experts in each.
    shares = [float(np.mean([weights[position] for position in layer])) for layer in layers]
    if problem.demand.released_rounding:
        counts = released_rounding(shares, limit.amount)
    elif low <= limit.amount <= high:
        counts = largest_remainder(shares, limit.amount, split.max_experts)
    else:
        raise InputError(
            f"budget {limit.request!r} does not fit {low} layers of 1 to {split.max_experts} experts, which is {low} to {high};"
            " change `max_experts`"
        )
    ranks: Ranks = [()] * len(problem.evidence.sites)
    for layer, count in zip(layers, counts, strict=True):
        for position in layer:
            ranks[position] = (split.expert_rank,) * count
    return ranks


def _plan(problem: Problem, ranks: Sequence[tuple[int, ...]], made_from: tuple[Source, ...], solution: Solution | None) -> Plan:
    evidence, limit, settings = problem.evidence, problem.limit, problem.settings
    mean = float(np.mean(problem.demand.weights))
    sites = tuple(
        PlannedSite(
            name=site.name,
            shape=site.shape,
            ranks=given,
            top_k=min(settings.top_k, len(given)),
            weight=weight / mean,
            alpha=site.alpha.mean,
            sensitivity=float(np.mean([task.mean for task in site.sensitivity])) if site.sensitivity else np.nan,
            token_share=site.token_share,
            loss_reduction=float(np.mean([task.mean for task in site.loss_reduction])) if site.loss_reduction else np.nan,
        )
        for site, weight, given in zip(evidence.sites, problem.demand.weights, ranks, strict=True)
    )
    parameters = sum(site.parameters for site in sites)
    spent = parameters
    if limit.unit == "experts":
        # The projections of a layer that are wanted share one count.
        spent = sum(max(len(ranks[member]) for member in layer) for layer in evidence.layers.values())
    if spent > limit.amount:
        raise InputError(
            f"strategy {settings.strategy.name!r} takes {spent:,} {limit.unit} as released, more than the budget"
            f" {limit.request!r}; raise the budget or leave `parity` out"
        )
    return Plan(
        model=evidence.model,
        strategy=settings.strategy.name,
        settings=settings,
        version=__version__,
        made_from=made_from,
        budget=Budget(request=limit.request, unit=limit.unit, limit=limit.amount, spent=spent, parameters=parameters),
        optimum=_optimum(problem, solution),
        sites=sites,
        notes=notes(problem, sites),
    )


def _optimum(problem: Problem, solution: Solution | None) -> Optimum | None:
    if solution is None:
        return None
    gap = (solution.bound - solution.objective) / abs(solution.bound) if solution.bound else 0.0
    return Optimum(utility=problem.utility, objective=solution.objective, bound=solution.bound, gap=gap)
