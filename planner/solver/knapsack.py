"""The solver: one option from every menu, the most value within a budget, with a proof of how good it is.

This is the multiple-choice knapsack problem. Its linear relaxation is solved exactly by walking the upper hulls of all menus in
order of slope (Sinha and Zoltners, Operations Research 27, 1979), which gives an upper bound, a feasible start and a price of
one unit of budget. At that price most options are so poor that no better solution can contain them; HiGHS closes the gap on
the few that are left.

A large model has tens of thousands of menus but few kinds of them: matrices of one shape share their costs and their utility and
differ in weight. So all array work is done kind by kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planner.solver.quiet import silent_stdout

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
NODE_LIMIT = 5_000  # branch-and-bound nodes, not seconds: the same inputs give the same plan on a slow machine
RELATIVE_GAP = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Options that many menus share, cheapest first: costs and utility strictly increase."""

    costs: Floats
    utility: Floats

    def hull(self) -> list[int]:
        """Options on the upper concave hull of (cost, utility), from the first on: slopes strictly decrease along it."""
        hull: list[int] = [0]
        for option in range(1, self.costs.size):
            while len(hull) > 1 and self.slope(hull[-1], option) >= self.slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(option)
        return hull

    def slope(self, cheap: int, dear: int) -> float:
        """Utility per unit of cost between two options."""
        return float((self.utility[dear] - self.utility[cheap]) / (self.costs[dear] - self.costs[cheap]))


@dataclass(frozen=True, slots=True)
class Menu:
    """A kind, and how much one decision wants it: the value of an option is weight * utility."""

    kind: Kind
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One option per menu. No choice within the budget has a value above `bound`."""

    picks: tuple[int, ...]
    objective: float
    bound: float


def solve(menus: Sequence[Menu], budget: float) -> Solution:
    """Choose one option per menu to maximise the total value.

    Of two menus of one kind the one with more weight never gets the cheaper option.

    Args:
        menus: at least one; all first options together must fit the budget.
        budget: the most that the chosen costs may sum to.

    Raises:
        ValueError: the first options alone exceed the budget.
    """
    problem = _Problem(menus)
    floor = problem.cost(np.zeros(len(menus), dtype=np.intp))
    if floor > budget:
        raise ValueError(f"the cheapest options cost {floor}, more than the budget {budget}")
    picks, price, bound = problem.walk_hulls(budget)
    picks = problem.fill(picks, budget)
    objective = problem.value(picks)
    if bound - objective > RELATIVE_GAP * abs(bound):
        closer, bound = problem.close_gap(budget, price, objective, bound)
        if closer is not None and problem.value(closer := problem.fill(closer, budget)) > objective:
            picks = closer
    picks = problem.more_to_the_heavier(picks)
    objective = problem.value(picks)
    return Solution(picks=tuple(picks.tolist()), objective=objective, bound=max(bound, objective))


def reaches(menus: Sequence[Menu], budget: float, target: float) -> bool:
    """Whether `solve` would find that much value within the budget; asked only where bound and greedy choice disagree."""
    problem = _Problem(menus)
    if problem.cost(np.zeros(len(menus), dtype=np.intp)) > budget:
        return False
    picks, _, bound = problem.walk_hulls(budget)
    if bound < target:
        return False
    return problem.value(problem.fill(picks, budget)) >= target or solve(menus, budget).objective >= target


class _Problem:
    """All menus, gathered by kind."""

    def __init__(self, menus: Sequence[Menu]) -> None:
        members: dict[Kind, list[int]] = {}
        for position, menu in enumerate(menus):
            members.setdefault(menu.kind, []).append(position)
        self.size = len(menus)
        self.weights = np.array([menu.weight for menu in menus])
        self.kinds = [(kind, np.array(positions, dtype=np.intp)) for kind, positions in members.items()]

    def value(self, picks: Indices) -> float:
        return sum(float(self.weights[at] @ kind.utility[picks[at]]) for kind, at in self.kinds)

    def cost(self, picks: Indices) -> float:
        return sum(float(kind.costs[picks[at]].sum()) for kind, at in self.kinds)

    def walk_hulls(self, budget: float) -> tuple[Indices, float, float]:
        """Take hull steps in order of slope while they fit; the first that does not ends the relaxation, sets price and bound."""
        hulls = [kind.hull() for kind, _ in self.kinds]
        slopes, costs, owners = [], [], []
        for (kind, at), hull in zip(self.kinds, hulls, strict=True):
            unit = np.array([kind.slope(cheap, dear) for cheap, dear in pairwise(hull)])
            slopes.append(np.outer(self.weights[at], unit).ravel())
            costs.append(np.tile(np.diff(kind.costs[hull]), at.size))
            owners.append(np.repeat(at, unit.size))
        slope, cost, owner = (np.concatenate(parts) for parts in (slopes, costs, owners))
        ranking = np.lexsort((owner, -slope))  # stable, so the steps of one menu stay in order
        left = budget - self.cost(np.zeros(self.size, dtype=np.intp))
        spent = np.cumsum(cost[ranking])
        taken = int(np.searchsorted(spent, left, side="right"))
        steps = np.bincount(owner[ranking[:taken]], minlength=self.size)
        picks = np.zeros(self.size, dtype=np.intp)
        for (_, at), hull in zip(self.kinds, hulls, strict=True):
            picks[at] = np.array(hull)[steps[at]]
        if taken == ranking.size:
            return picks, 0.0, self.value(picks)
        price = float(slope[ranking[taken]])
        return picks, price, self.value(picks) + price * (left - float(spent[taken - 1] if taken else 0.0))

    def fill(self, picks: Indices, budget: float) -> Indices:
        """Spend what is left: repeatedly the affordable next option with the most value per cost, until none fits."""
        picks = picks.copy()
        left = budget - self.cost(picks)
        while (best := self._best_upgrade(picks, left)) is not None:
            position, cost = best
            picks[position] += 1
            left -= cost
        return picks

    def _best_upgrade(self, picks: Indices, left: float) -> tuple[int, float] | None:
        best: tuple[float, int, float] | None = None
        for kind, at in self.kinds:
            growing = at[picks[at] + 1 < kind.costs.size]
            growing = growing[kind.costs[picks[growing] + 1] - kind.costs[picks[growing]] <= left]
            if growing.size:
                now = picks[growing]
                extra = kind.costs[now + 1] - kind.costs[now]
                slope = self.weights[growing] * (kind.utility[now + 1] - kind.utility[now]) / extra
                first = int(np.lexsort((growing, -slope))[0])
                candidate = (-float(slope[first]), int(growing[first]), float(extra[first]))
                best = min(best, candidate) if best else candidate
        return best and best[1:]

    def close_gap(self, budget: float, price: float, objective: float, bound: float) -> tuple[Indices | None, float]:
        """Search the options that a better solution could contain; the best picks found, if any, and the proven bound."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # takes a moment to import, and few commands solve
        from scipy.sparse import csr_array

        menu, option, value, cost = self._worth_keeping(price, bound - objective)
        one_per_menu = csr_array((np.ones(menu.size), (menu, np.arange(menu.size))), shape=(self.size, menu.size))
        with silent_stdout():
            result = milp(
                -value,
                constraints=[LinearConstraint(one_per_menu, 1, 1), LinearConstraint(csr_array(cost[None]), -np.inf, budget)],
                integrality=np.ones(value.size, dtype=int),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": RELATIVE_GAP, "node_limit": NODE_LIMIT},
            )
        proven = bound if result.mip_dual_bound is None else min(bound, -float(result.mip_dual_bound))
        if result.x is None:
            return None, proven
        picks = np.zeros(self.size, dtype=np.intp)
        chosen = result.x > 0.5
        picks[menu[chosen]] = option[chosen]
        return (picks if self.cost(picks) <= budget else None), proven

    def _worth_keeping(self, price: float, gap: float) -> tuple[Indices, Indices, Floats, Floats]:
        """Options whose loss at the relaxation's price is within the gap: any solution with a worse one is below the incumbent.

        Returns:
            Menu, option, value and cost of each, all of one length.
        """
        menus, options, values, costs = [], [], [], []
        for kind, at in self.kinds:
            value = np.outer(self.weights[at], kind.utility)
            profit = value - price * kind.costs
            row, option = np.nonzero(profit >= profit.max(axis=1, keepdims=True) - gap * (1 + 1e-9))
            menus.append(at[row])
            options.append(option)
            values.append(value[row, option])
            costs.append(kind.costs[option])
        return np.concatenate(menus), np.concatenate(options), np.concatenate(values), np.concatenate(costs)

    def more_to_the_heavier(self, picks: Indices) -> Indices:
        """Among menus of one kind, hand the dearest picks to the greatest weights: costs the same, and is never worth less."""
        picks = picks.copy()
        for _, at in self.kinds:
            heaviest_first = at[np.lexsort((at, -self.weights[at]))]
            picks[heaviest_first] = np.sort(picks[at])[::-1]
        return picks
