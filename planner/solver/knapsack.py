"""The solver: one option from every set, the most value within a budget, with a proof of how good the choice is.

This is the multiple-choice knapsack problem. Its linear relaxation is solved exactly by walking the upper hulls of all sets in
order of slope (Sinha and Zoltners, Operations Research 27, 1979), which gives an upper bound, a feasible start and a price of
one unit of budget. At that price most options are so poor that no better solution can contain them; HiGHS closes the gap on
the few that are left.

A large model has tens of thousands of option sets but few item tables: matrices of one shape share their costs and their utility
and differ in weight. So all array work is done table by table.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
NODE_LIMIT = 5_000  # branch-and-bound nodes, not seconds: the same inputs give the same plan on a slow machine
RELATIVE_GAP = 1e-4


# Equal by identity: sets are gathered by their table as a dictionary key, and arrays have no hash.
@dataclass(frozen=True, slots=True, eq=False)
class ItemTable:
    """Options that many sets share, cheapest first: costs and utility strictly increase."""

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
class OptionSet:
    """An item table, and how much one decision wants it: the value of an option is weight * utility."""

    table: ItemTable
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One option per set. No choice within the budget has a value above `bound`."""

    chosen: tuple[int, ...]
    objective: float
    bound: float


def solve(option_sets: Sequence[OptionSet], budget: float) -> Solution:
    """Choose one option per set to maximise the total value.

    Of two sets with one table the one with more weight never gets the cheaper option.

    Args:
        option_sets: at least one; all first options together must fit the budget.
        budget: the most that the chosen costs may sum to.

    Raises:
        ValueError: the first options alone exceed the budget.
    """
    problem = _Knapsack(option_sets)
    floor = problem.cost(np.zeros(len(option_sets), dtype=np.intp))
    if floor > budget:
        raise ValueError(f"the cheapest options cost {floor}, more than the budget {budget}")
    chosen, price, bound = problem.relax(budget)
    chosen = problem.fill(chosen, budget)
    # The greedy choice. If it is close enough to the bound already, nothing has to be searched.
    objective = problem.value(chosen)
    if bound - objective > RELATIVE_GAP * abs(bound):
        closer, bound = problem.close_gap(budget, price, objective, bound)
        # The search may stop within its own gap, with budget to spare.
        if closer is not None and problem.value(closer := problem.fill(closer, budget)) > objective:
            chosen = closer
    chosen = problem.exchange(chosen)
    objective = problem.value(chosen)
    return Solution(chosen=tuple(chosen.tolist()), objective=objective, bound=max(bound, objective))  # max: against rounding


def reaches(option_sets: Sequence[OptionSet], budget: float, target: float) -> bool:
    """Whether `solve` would find that much value within the budget; asked only where bound and greedy choice disagree."""
    problem = _Knapsack(option_sets)
    if problem.cost(np.zeros(len(option_sets), dtype=np.intp)) > budget:
        return False
    chosen, _, bound = problem.relax(budget)
    if bound < target:
        return False
    return problem.value(problem.fill(chosen, budget)) >= target or solve(option_sets, budget).objective >= target


class _Knapsack:
    """All option sets, gathered by their tables. A choice is an array of one option index per set."""

    def __init__(self, option_sets: Sequence[OptionSet]) -> None:
        members: dict[ItemTable, list[int]] = {}
        for position, option_set in enumerate(option_sets):
            members.setdefault(option_set.table, []).append(position)
        self.size = len(option_sets)
        self.weights = np.array([option_set.weight for option_set in option_sets])
        self.tables = [(table, np.array(positions, dtype=np.intp)) for table, positions in members.items()]

    def value(self, chosen: Indices) -> float:
        return sum(float(self.weights[at] @ table.utility[chosen[at]]) for table, at in self.tables)

    def cost(self, chosen: Indices) -> float:
        return sum(float(table.costs[chosen[at]].sum()) for table, at in self.tables)

    def relax(self, budget: float) -> tuple[Indices, float, float]:
        """Take hull steps in order of slope while they fit; the first that does not ends the relaxation, sets price and bound."""
        hulls = [table.hull() for table, _ in self.tables]
        # A step leads from one hull option of a set to the next: its slope, its cost, and whose it is.
        slopes, costs, owners = [], [], []
        for (table, at), hull in zip(self.tables, hulls, strict=True):
            unit = np.array([table.slope(cheap, dear) for cheap, dear in pairwise(hull)])
            slopes.append(np.outer(self.weights[at], unit).ravel())
            costs.append(np.tile(np.diff(table.costs[hull]), at.size))
            owners.append(np.repeat(at, unit.size))
        slope, cost, owner = (np.concatenate(parts) for parts in (slopes, costs, owners))
        ranking = np.lexsort((owner, -slope))  # stable, so the steps of one set stay in order
        left = budget - self.cost(np.zeros(self.size, dtype=np.intp))
        spent = np.cumsum(cost[ranking])
        taken = int(np.searchsorted(spent, left, side="right"))
        steps = np.bincount(owner[ranking[:taken]], minlength=self.size)
        chosen = np.zeros(self.size, dtype=np.intp)
        for (_, at), hull in zip(self.tables, hulls, strict=True):
            # A set's steps are taken in the hull's order, because slopes fall along it: after k of them it stands at option k of
            # the hull.
            chosen[at] = np.array(hull)[steps[at]]
        if taken == ranking.size:  # all is bought, and a unit of budget is worth nothing more
            return chosen, 0.0, self.value(chosen)
        # The bound buys a fraction of the step that did not fit with what is left.
        price = float(slope[ranking[taken]])
        return chosen, price, self.value(chosen) + price * (left - float(spent[taken - 1] if taken else 0.0))

    def fill(self, chosen: Indices, budget: float) -> Indices:
        """Spend what is left: repeatedly the affordable next option with the most value per cost, until none fits."""
        chosen = chosen.copy()
        left = budget - self.cost(chosen)
        while (best := self._best_upgrade(chosen, left)) is not None:
            position, cost = best
            chosen[position] += 1
            left -= cost
        return chosen

    def _best_upgrade(self, chosen: Indices, left: float) -> tuple[int, float] | None:
        best: tuple[float, int, float] | None = None
        for table, at in self.tables:
            growing = at[chosen[at] + 1 < table.costs.size]  # sets whose dearest option is not yet taken
            growing = growing[table.costs[chosen[growing] + 1] - table.costs[chosen[growing]] <= left]
            if growing.size:
                now = chosen[growing]
                extra = table.costs[now + 1] - table.costs[now]
                slope = self.weights[growing] * (table.utility[now + 1] - table.utility[now]) / extra
                # Ties go to the first set, here and in min(), so that the order of the tables decides nothing.
                first = int(np.lexsort((growing, -slope))[0])
                candidate = (-float(slope[first]), int(growing[first]), float(extra[first]))
                best = min(best, candidate) if best else candidate
        return best and best[1:]

    def close_gap(self, budget: float, price: float, objective: float, bound: float) -> tuple[Indices | None, float]:
        """Search the options that a better solution could contain; the best choice found, if any, and the proven bound."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # takes a moment to import, and few commands solve
        from scipy.sparse import csr_array

        option_set, option, value, cost = self._worth_keeping(price, bound - objective)
        one_per_set = csr_array(
            (np.ones(option_set.size), (option_set, np.arange(option_set.size))), shape=(self.size, option_set.size)
        )
        with silent_stdout():
            result = milp(
                -value,
                constraints=[LinearConstraint(one_per_set, 1, 1), LinearConstraint(csr_array(cost[None]), -np.inf, budget)],
                integrality=np.ones(value.size, dtype=int),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": RELATIVE_GAP, "node_limit": NODE_LIMIT},
            )
        proven = bound if result.mip_dual_bound is None else min(bound, -float(result.mip_dual_bound))
        if result.x is None:
            return None, proven
        chosen, taken = np.zeros(self.size, dtype=np.intp), result.x > 0.5  # HiGHS returns ones and zeros up to rounding
        chosen[option_set[taken]] = option[taken]
        # HiGHS respects the budget up to a tolerance of its own.
        return (chosen if self.cost(chosen) <= budget else None), proven

    def _worth_keeping(self, price: float, gap: float) -> tuple[Indices, Indices, Floats, Floats]:
        """Options whose loss at the relaxation's price is within the gap: any solution with a worse one is below the incumbent.

        Returns:
            Option set, option, value and cost of each, all of one length.
        """
        option_sets, options, values, costs = [], [], [], []
        for table, at in self.tables:
            value = np.outer(self.weights[at], table.utility)
            # Reduced profit: what an option is worth above what its cost would buy elsewhere. In the relaxed optimum every set
            # takes its best one, so a solution with a worse one loses at least the difference.
            profit = value - price * table.costs
            row, option = np.nonzero(profit >= profit.max(axis=1, keepdims=True) - gap * (1 + 1e-9))
            option_sets.append(at[row])
            options.append(option)
            values.append(value[row, option])
            costs.append(table.costs[option])
        return np.concatenate(option_sets), np.concatenate(options), np.concatenate(values), np.concatenate(costs)

    def exchange(self, chosen: Indices) -> Indices:
        """Among sets of one table, give the dearest options to the greatest weights: costs the same, and is never worth less."""
        # Filling and branch and bound both stop at "good enough", where a lesser weight may hold the dearer option.
        chosen = chosen.copy()
        for _, at in self.tables:
            heaviest_first = at[np.lexsort((at, -self.weights[at]))]
            chosen[heaviest_first] = np.sort(chosen[at])[::-1]
        return chosen


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Keep HiGHS's debug lines, which C prints even when told not to, out of what a command prints.

    It redirects file descriptor 1 of the whole process for as long as the block runs, so it is not for use beside threads that
    print.
    """
    sys.stdout.flush()  # what Python has buffered is not to be lost with it
    saved, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)
