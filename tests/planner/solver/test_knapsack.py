import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.solver.knapsack import RELATIVE_GAP, ItemTable, OptionSet, reaches, silent_stdout, solve
from tests.reference.knapsack import best_value


@st.composite
def option_sets(draw, most=4, options=5):
    """Small option sets with strictly increasing costs and values."""
    steps = st.lists(st.tuples(st.integers(1, 12), st.floats(0.01, 5)), min_size=1, max_size=options)
    return [
        [(float(cost), float(value)) for cost, value in np.cumsum(draw(steps), axis=0)] for _ in range(draw(st.integers(1, most)))
    ]


def as_sets(options):
    return [OptionSet(ItemTable(*(np.array(column) for column in zip(*option_set, strict=True)))) for option_set in options]


def floor(options):
    return sum(option_set[0][0] for option_set in options)


@settings(max_examples=150, deadline=None)
@given(option_sets(), st.floats(0, 60))
def test_optimal_against_brute_force(options, more):
    budget = floor(options) + more
    solution = solve(as_sets(options), budget)
    best = best_value(options, budget)
    assert sum(option_set[choice][0] for option_set, choice in zip(options, solution.chosen, strict=True)) <= budget
    assert solution.objective == pytest.approx(
        sum(option_set[choice][1] for option_set, choice in zip(options, solution.chosen, strict=True))
    )
    assert solution.objective >= best * (1 - 2 * RELATIVE_GAP) - 1e-9
    assert solution.bound >= best - 1e-9


@settings(max_examples=150, deadline=None)
@given(option_sets(), st.integers(-5, 60), st.floats(0.5, 1.5))
def test_a_target_is_reached_where_solving_reaches_it(options, more, share):
    budget = floor(options) + more
    if more < 0:
        assert not reaches(as_sets(options), budget, 0.0)
        return
    found = solve(as_sets(options), budget).objective
    if abs(share - 1) > 1e-9:
        assert reaches(as_sets(options), budget, share * found) == (share < 1)
    assert reaches(as_sets(options), budget, found * (1 - 1e-9))


@settings(max_examples=100, deadline=None)
@given(option_sets(), st.floats(0, 60))
def test_nothing_affordable_is_left_unspent(options, more):
    budget = floor(options) + more
    solution = solve(as_sets(options), budget)
    left = budget - sum(option_set[choice][0] for option_set, choice in zip(options, solution.chosen, strict=True))
    upgrades = [
        option_set[choice + 1][0] - option_set[choice][0]
        for option_set, choice in zip(options, solution.chosen, strict=True)
        if choice + 1 < len(option_set)
    ]
    assert all(cost > left for cost in upgrades)


@given(option_sets(most=1, options=8))
def test_the_hull_is_concave_and_covers_every_option(options):
    (option_set,) = as_sets(options)
    table = option_set.table
    hull = table.hull()
    slopes = np.diff(table.utility[hull]) / np.diff(table.costs[hull])
    assert (np.diff(slopes) < 0).all()
    assert (np.interp(table.costs, table.costs[hull], table.utility[hull]) >= table.utility - 1e-9).all()


def test_a_case_where_the_hull_alone_is_not_enough():
    # the slope order takes the small step first and then cannot afford the large one
    options = [[(0.0, 0.0), (4.0, 5.0)], [(0.0, 0.0), (9.0, 10.0)]]
    solution = solve(as_sets(options), 10)
    assert solution.chosen == (0, 1)
    assert solution.objective == 10.0


def test_floors_beyond_the_budget_are_refused():
    with pytest.raises(ValueError, match=r"cheapest options cost 5.0, more than the budget 4"):
        solve(as_sets([[(5.0, 1.0)]]), 4)


def test_solving_prints_nothing(capfd):
    rng = np.random.default_rng(0)
    option_sets = [
        OptionSet(ItemTable(np.cumsum(rng.integers(1, 50, 40)).astype(float), np.cumsum(rng.random(40)))) for _ in range(60)
    ]
    solve(option_sets, 20_000)
    assert capfd.readouterr().out == ""


def test_of_two_sets_with_one_table_the_heavier_never_gets_the_cheaper_option():
    rng = np.random.default_rng(1)
    for _ in range(20):
        table = ItemTable(np.cumsum(rng.integers(1, 9, 12)).astype(float), np.cumsum(rng.random(12)))
        weights = rng.random(15)
        solution = solve([OptionSet(table, weight) for weight in weights], 15 * table.costs[0] + rng.integers(1, 200))
        heaviest_first = np.array(solution.chosen)[np.argsort(-weights)]
        assert (np.diff(heaviest_first) <= 0).all()


def test_an_option_is_worth_its_sets_weight_times_its_utility():
    table = ItemTable(np.array([0.0, 3.0]), np.array([1.0, 2.0]))
    solution = solve([OptionSet(table, 1.0), OptionSet(table, 5.0)], 3)
    assert (solution.chosen, solution.objective) == ((0, 1), 11.0)
    assert solve([OptionSet(table)], 3).objective == 2.0


def test_what_c_prints_is_kept_out_and_what_python_prints_afterwards_is_not(capfd):
    with silent_stdout():
        os.write(1, b"from C")
    print("from Python")  # noqa: T201
    assert capfd.readouterr().out == "from Python\n"
