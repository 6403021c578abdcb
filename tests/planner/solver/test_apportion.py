import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.solver.apportion import largest_remainder, released_rounding


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.integers(0, 200))
def test_shares_sum_to_the_total_and_leave_nobody_out(weights, more):
    total = len(weights) + more
    shares = largest_remainder(weights, total, most=total)
    assert sum(shares) == total
    assert min(shares) >= 1


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=20))
def test_more_weight_never_gets_less(weights):
    shares = largest_remainder(weights, 10 * len(weights), most=40)
    for one, share in zip(weights, shares, strict=True):
        for other, others_share in zip(weights, shares, strict=True):
            # A last bit of a weight is no more of it: the shares come of sums, which round.
            assert one <= other * (1 + 1e-12) or share >= others_share


@pytest.mark.parametrize(
    ("weights", "total", "shares"),
    [([1, 1, 1], 7, [3, 2, 2]), ([5, 3, 2], 10, [5, 3, 2]), ([98, 1, 1], 4, [2, 1, 1])],
)
def test_worked_examples(weights, total, shares):
    assert largest_remainder(weights, total, most=9) == shares


def test_nobody_gets_more_than_the_most():
    assert largest_remainder([100, 1, 1], 9, most=4) == [4, 3, 2]


def test_the_released_repair_hits_the_smallest_alpha():
    # worked example: alphas 2.0 .. 4.0, beta 2.5, 30 experts round to 2, 2, 4, 5, 6, 10, which is one too few
    weights = [alpha**2.5 for alpha in (2.0, 2.2, 2.6, 3.1, 3.3, 4.0)]
    assert released_rounding(weights, 30) == [3, 2, 4, 5, 6, 10]
    assert largest_remainder(weights, 30, 30) != released_rounding(weights, 30)


@given(st.lists(st.floats(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_the_released_rounding_sums_to_the_total(weights, total):
    assert sum(released_rounding(weights, total)) == total
