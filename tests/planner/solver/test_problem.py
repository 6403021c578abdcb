import pytest

from planner.strategies.demand import Demand
from tests.planner.examples import evidence_of, problem_of, site_of

EVIDENCE = evidence_of(
    site_of("layers.0.q"), site_of("layers.0.up", shape=(32, 8)), site_of("layers.0.experts.0.up"),
    site_of("layers.0.experts.0.down"),
    site_of("layers.0.experts.1.up"), site_of("layers.1.q"),
)  # fmt: skip
DEMAND = Demand(weights=(1.0, 2.0, 4.0, 0.0, 1.0, 1.0))


def test_only_sites_of_positive_weight_are_wanted():
    problem = problem_of(EVIDENCE, "2880", demand=DEMAND)
    assert [site.name for site in problem.wanted] == [site.name for at, site in enumerate(EVIDENCE.sites) if at != 3]
    assert problem.mean_rank == 2880 / (4 * 24 + 40)
    assert problem.relative_weights.tolist() == [0.25, 0.5, 1.0, 0.0, 0.25, 0.25]


@pytest.mark.parametrize(
    ("granularity", "groups"),
    [
        ("model", [[0, 1, 2, 4, 5]]),
        ("layer", [[0, 1, 2, 4], [5]]),
        ("projection", [[0, 5], [1], [2, 4]]),
        ("expert", [[0], [1], [2], [4], [5]]),
        ("module", [[0], [1], [2], [4], [5]]),
    ],
)
def test_who_shares_an_answer(granularity, groups):
    assert problem_of(EVIDENCE, demand=DEMAND, granularity=granularity).groups == groups


def test_an_experts_projections_share_an_answer():
    everyone = Demand(weights=(1.0,) * 6, granularity="expert")
    assert problem_of(EVIDENCE, demand=everyone).groups == [[0], [1], [2, 3], [4], [5]]


def test_the_user_decides_on_granularity_before_the_strategy():
    by_layer = Demand(weights=(1.0,) * 6, granularity="layer")
    assert problem_of(EVIDENCE, demand=by_layer).granularity == "layer"
    assert problem_of(EVIDENCE, demand=by_layer, granularity="module").granularity == "module"


@pytest.mark.parametrize(
    ("demand", "min_rank", "utility"),
    [
        ({"utility": "log", "without_floor": "log1p"}, None, "log"),
        ({"utility": "log", "without_floor": "log1p"}, 1, "log"),
        ({"utility": "log", "without_floor": "log1p"}, 0, "log1p"),
        ({"utility": "power"}, 0, "power"),
    ],
)
def test_where_sites_may_go_without_some_strategies_mean_another_utility(demand, min_rank, utility):
    problem = problem_of(EVIDENCE, demand=Demand(weights=(1.0,) * 6, **demand), min_rank=min_rank)
    assert problem.utility == utility


def test_another_limit_is_another_problem_and_all_else_the_same():
    problem = problem_of(EVIDENCE, "rank 4")
    other = problem.within(7)
    assert (problem.limit.amount, other.limit.amount) == (4 * (5 * 24 + 40), 7)
    assert (other.limit.request, other.evidence, other.settings) == ("rank 4", EVIDENCE, problem.settings)
