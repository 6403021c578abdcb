import numpy as np
import pytest

from planner.strategies.demand import Demand, utility

RANKS = np.arange(1.0, 40)


@pytest.mark.parametrize("name", ["log", "log1p"])
def test_more_rank_is_always_worth_more_and_ever_less(name):
    steps = np.diff(utility(name, RANKS))
    assert (steps > 0).all()
    assert (np.diff(steps) < 0).all()


def test_log1p_gives_nothing_to_no_rank():
    assert utility("log1p", np.array([0.0, 1.0])).tolist() == [0.0, np.log(2)]


def test_log_makes_capacity_proportional_to_weight():
    # the derivative of w log r is w / r, equal everywhere when r is in proportion to w
    weights, ranks = np.array([1.0, 2.0, 4.0]), np.array([8.0, 16.0, 32.0])
    slopes = weights * (utility("log", ranks + 1e-6) - utility("log", ranks)) / 1e-6
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)


def test_by_default_a_site_answers_for_itself_and_saturates_from_the_first_rank_on():
    demand = Demand(weights=(1.0,))
    assert (demand.granularity, demand.utility, demand.without_floor, demand.experts, demand.growth) == (
        "module",
        "log1p",
        None,
        None,
        None,
    )
    assert (demand.spares_routed, demand.plain, demand.released_rounding) == (False, False, False)
