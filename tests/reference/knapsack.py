"""The multiple-choice knapsack by trying every combination."""

from itertools import product


def best_value(option_sets, budget):
    """The largest total value of one option per set within the budget, or None. A set is a list of (cost, value)."""
    values = [sum(value for _, value in choice) for choice in product(*option_sets) if sum(cost for cost, _ in choice) <= budget]
    return max(values, default=None)
