"""Ranks by growth: the largest mean rank that the budget affords, the same in every layer, shared out by DR-LoRA's rule."""

from bisect import bisect_right
from collections.abc import Mapping

from planner.evidence.evidence import SiteEvidence
from planner.solver.budget import widest_rank
from planner.solver.problem import Problem
from planner.strategies.growth import GrowthRule, grown
from spectra import InputError

Layer = dict[object, list[int]]  # expert, or the site itself where there are none -> positions of its sites


def grown_ranks(problem: Problem, rule: GrowthRule) -> list[int]:
    """Rank of every site, 0 where the strategy wants none.

    Raises:
        InputError: a budget in experts, or one too small for a rank at each wanted site.
    """
    limit, sites = problem.limit, problem.evidence.sites
    if limit.unit == "experts":
        raise InputError(f"budget {limit.request!r}: growth shares out ranks; give the budget in parameters or as a rank")
    layers = [found for members in problem.evidence.layers.values() if (found := _experts(problem, members))]
    finest = max(map(len, layers))
    widest = max(widest_rank(sites[position].shape) for layer in layers for group in layer.values() for position in group)

    def ranks(step: int) -> list[int]:
        """With a mean rank of step / finest."""
        found = [0] * len(sites)
        for layer in layers:
            for group, rank in zip(layer.values(), _grown(problem, rule, layer, step, finest), strict=True):
                for position in group:
                    found[position] = rank
        return found

    def cost(step: int) -> int:
        return sum(rank * site.rank_cost for rank, site in zip(ranks(step), sites, strict=True))

    if cost(finest) > limit.amount:
        raise InputError(
            f"budget {limit.request!r} ({limit.amount:,} parameters) is too small for one rank at each of the"
            f" {len(problem.wanted)} sites, which takes {cost(finest):,}"
        )
    steps = range(finest, finest * widest + 1)
    at = bisect_right(steps, limit.amount, key=cost) - 1
    # Where an expert's matrices differ in size a little more rank may cost a little less, which bisection does not see.
    while cost(steps[at]) > limit.amount:
        at -= 1
    return ranks(steps[at])


def _experts(problem: Problem, members: list[int]) -> Layer:
    """A layer's wanted sites, by expert."""
    found: Layer = {}
    for position in members:
        site: SiteEvidence = problem.evidence.sites[position]
        if problem.demand.weights[position] > 0:
            found.setdefault(site.name if site.expert is None else site.expert, []).append(position)
    return found


def _grown(problem: Problem, rule: GrowthRule, layer: Mapping[object, list[int]], step: int, finest: int) -> list[int]:
    sites, weights = problem.evidence.sites, problem.demand.weights
    room = min(widest_rank(sites[position].shape) for group in layer.values() for position in group)
    first = [group[0] for group in layer.values()]
    shares = [sites[position].token_share if sites[position].expert is not None else 1.0 for position in first]
    target = min(step * len(layer) // finest, room * len(layer))
    return grown(rule, [weights[position] for position in first], shares, target=target, most=room)
