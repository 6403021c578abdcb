"""The solver: one option from every menu, the most value within a budget, with a proof of how good it is.

This is the multiple-choice knapsack problem. Its linear relaxation is solved exactly by walking the upper hulls of all menus in
order of slope (Sinha and Zoltners, Operations Research 27, 1979), which gives an upper bound, a feasible start and a price of
one unit of budget. At that price most options are so poor that no better solution can contain them; HiGHS closes the gap on
the few that are left.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NODE_LIMIT = 5_000  # branch-and-bound nodes, not seconds: the same inputs give the same plan on a slow machine
RELATIVE_GAP = 1e-4


@dataclass(frozen=True, slots=True)
class Menu:
    """The options of one group, cheapest first: costs and values strictly increase."""

    costs: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """One option per menu. No choice within the budget has a value above `bound`."""

    picks: tuple[int, ...]
    objective: float
    bound: float


def solve(menus: Sequence[Menu], budget: float) -> Solution:
    """Choose one option per menu to maximise the total value.

    Args:
        menus: at least one; all first options together must fit the budget.
        budget: the most that the chosen costs may sum to.

    Raises:
        ValueError: the first options alone exceed the budget.
    """
    floor = sum(menu.costs[0] for menu in menus)
    if floor > budget:
        raise ValueError(f"the cheapest options cost {floor}, more than the budget {budget}")
    picks, price, bound = _walk_hulls(menus, budget)
    picks = _fill(menus, picks, budget)
    objective = _value(menus, picks)
    if bound - objective > RELATIVE_GAP * abs(bound):
        closer, bound = _close_gap(menus, budget, price, objective, bound)
        closer = _fill(menus, closer, budget) if closer else picks
        if _value(menus, closer) > objective:
            picks, objective = closer, _value(menus, closer)
    return Solution(picks=tuple(picks), objective=objective, bound=max(bound, objective))


def _value(menus: Sequence[Menu], picks: Sequence[int]) -> float:
    return float(sum(menu.values[pick] for menu, pick in zip(menus, picks, strict=True)))


def _cost(menus: Sequence[Menu], picks: Sequence[int]) -> float:
    return float(sum(menu.costs[pick] for menu, pick in zip(menus, picks, strict=True)))


def upper_hull(menu: Menu) -> list[int]:
    """Options on the upper concave hull of (cost, value), from the first option on: slopes strictly decrease along it."""
    hull: list[int] = [0]
    for option in range(1, menu.costs.size):
        while len(hull) > 1 and _slope(menu, hull[-1], option) >= _slope(menu, hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(menu: Menu, cheap: int, dear: int) -> float:
    return float((menu.values[dear] - menu.values[cheap]) / (menu.costs[dear] - menu.costs[cheap]))


def _walk_hulls(menus: Sequence[Menu], budget: float) -> tuple[list[int], float, float]:
    """Take hull steps in order of slope while they fit; the first that does not ends the relaxation and sets price and bound."""
    steps = [
        (-_slope(menu, cheap, dear), position, cheap, dear)
        for position, menu in enumerate(menus)
        for cheap, dear in pairwise(upper_hull(menu))
    ]
    picks = [0] * len(menus)
    left = budget - _cost(menus, picks)
    for negative_slope, position, cheap, dear in sorted(steps):
        extra = float(menus[position].costs[dear] - menus[position].costs[cheap])
        if extra > left:
            return picks, -negative_slope, _value(menus, picks) - negative_slope * left
        picks[position] = dear
        left -= extra
    return picks, 0.0, _value(menus, picks)


def _fill(menus: Sequence[Menu], picks: Sequence[int], budget: float) -> list[int]:
    """Spend what is left: repeatedly the affordable upgrade with the most value per cost, until none fits."""
    filled = list(picks)
    left = budget - _cost(menus, filled)
    while upgrades := [
        (-_slope(menu, pick, option), position, option)
        for position, (menu, pick) in enumerate(zip(menus, filled, strict=True))
        for option in range(pick + 1, _affordable(menu, pick, left))
    ]:
        _, position, option = min(upgrades)
        left -= float(menus[position].costs[option] - menus[position].costs[filled[position]])
        filled[position] = option
    return filled


def _affordable(menu: Menu, pick: int, left: float) -> int:
    return int(np.searchsorted(menu.costs, menu.costs[pick] + left, side="right"))


def _close_gap(
    menus: Sequence[Menu], budget: float, price: float, objective: float, bound: float
) -> tuple[list[int] | None, float]:
    """Search the options that a better solution could contain; returns the best picks found, if any, and the proven bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes a moment to import, and few commands solve

    kept = [_worth_keeping(menu, price, bound - objective) for menu in menus]
    values = np.concatenate([menu.values[options] for menu, options in zip(menus, kept, strict=True)])
    costs = np.concatenate([menu.costs[options] for menu, options in zip(menus, kept, strict=True)])
    group = np.repeat(np.arange(len(menus)), [options.size for options in kept])
    one_per_menu = (group == np.arange(len(menus))[:, None]).astype(float)
    with _silent_stdout():
        result = milp(
            -values,
            constraints=[LinearConstraint(one_per_menu, 1, 1), LinearConstraint(costs[None], -np.inf, budget)],
            integrality=np.ones(values.size, dtype=int),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": RELATIVE_GAP, "node_limit": NODE_LIMIT},
        )
    proven = bound if result.mip_dual_bound is None else min(bound, -float(result.mip_dual_bound))
    if result.x is None:
        return None, proven
    taken = [int(options[np.argmax(result.x[group == position])]) for position, options in enumerate(kept)]
    return (taken if _cost(menus, taken) <= budget else None), proven


def _worth_keeping(menu: Menu, price: float, gap: float) -> NDArray[np.intp]:
    """Options whose loss at the relaxation's price is within the gap: any solution with a worse one is below the incumbent."""
    profit = menu.values - price * menu.costs
    return np.flatnonzero(profit >= profit.max() - gap * (1 + 1e-9))


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS prints debug lines from C even when told not to; they would end up inside `--json` output."""
    sys.stdout.flush()
    saved, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(sink)
