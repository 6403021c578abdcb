"""Ranks by growth: the largest mean rank that the budget affords, the same in every layer, shared out by DR-LoRA's rule."""

from bisect import bisect_right
from dataclasses import dataclass

from planner.solver.budget import widest_rank
from planner.solver.problem import Problem
from planner.strategies.growth import GrowthRule, grown
from spectra import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer's experts, or in a dense model its modules; E of them."""

    members: tuple[tuple[int, ...], ...]
    """Positions of each expert's sites."""
    weights: tuple[float, ...]
    shares: tuple[float, ...]
    costs: tuple[int, ...]
    """Trainable parameters of one more rank of each."""
    room: int
    """The largest rank that the matrices of all leave room for."""

    def target(self, step: int, finest: int) -> int:
        """Ranks of all together at a mean rank of step / finest."""
        return min(step * len(self.members) // finest, self.room * len(self.members))

    def ranks(self, rule: GrowthRule, target: int) -> list[int]:
        """Of each, where growth ends."""
        return grown(rule, self.weights, self.shares, target=target, most=self.room)

    def cost(self, rule: GrowthRule, target: int) -> int:
        """Trainable parameters of so many ranks."""
        # Routed experts cost alike, so who gets a rank does not matter, and nothing need be shared out to know the sum.
        if len(set(self.costs)) == 1:
            return target * self.costs[0]
        return sum(rank * cost for rank, cost in zip(self.ranks(rule, target), self.costs, strict=True))


def grown_ranks(problem: Problem, rule: GrowthRule) -> list[int]:
    """Rank of every site, 0 where the strategy wants none.

    Raises:
        InputError: a budget in experts, or one too small for a rank at each wanted site.
    """
    limit = problem.limit
    if limit.unit == "experts":
        raise InputError(f"budget {limit.request!r}: growth shares out ranks; give the budget in parameters or as a rank")
    layers = [layer for members in problem.evidence.layers.values() if (layer := _layer(problem, members, rule)) is not None]
    finest = max(len(layer.members) for layer in layers)

    def cost(step: int) -> int:
        return sum(layer.cost(rule, layer.target(step, finest)) for layer in layers)

    if (least := cost(finest)) > limit.amount:
        raise InputError(
            f"budget {limit.request!r} ({limit.amount:,} parameters) is too small for one rank at each of the"
            f" {len(problem.wanted)} sites, which takes {least:,}"
        )
    # At a mean of one, all ranks cost at least `cheapest`, so no mean beyond the budget over it is affordable.
    cheapest = sum(min(layer.costs) * len(layer.members) for layer in layers)
    steps = range(finest, min(finest * max(layer.room for layer in layers), finest * (limit.amount // cheapest + 1)) + 1)
    at = bisect_right(steps, limit.amount, key=cost) - 1
    # Where modules differ in size a little more rank may cost a little less, which bisection does not see.
    while cost(steps[at]) > limit.amount:
        at -= 1
    ranks = [0] * len(problem.evidence.sites)
    for layer in layers:
        for members, rank in zip(layer.members, layer.ranks(rule, layer.target(steps[at], finest)), strict=True):
            for position in members:
                ranks[position] = rank
    return ranks


def _layer(problem: Problem, positions: list[int], rule: GrowthRule) -> Layer | None:
    """A layer's wanted sites, by expert; None if there are none."""
    sites, weights = problem.evidence.sites, problem.demand.weights
    members: dict[object, list[int]] = {}
    for at in positions:
        if weights[at] > 0:
            members.setdefault(sites[at].name if sites[at].expert is None else sites[at].expert, []).append(at)
    if not members:
        return None
    first = [sites[group[0]] for group in members.values()]
    return Layer(
        members=tuple(tuple(group) for group in members.values()),
        weights=tuple(weights[group[0]] for group in members.values()),
        shares=tuple(site.share_of(rule.growth_tokens) for site in first),
        costs=tuple(sum(sites[at].rank_cost for at in group) for group in members.values()),
        room=min(widest_rank(sites[at].shape) for group in members.values() for at in group),
    )
