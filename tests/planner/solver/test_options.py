"""From a problem to what the solver may choose from."""

import math

import numpy as np
import pytest

from planner.solver.budget import site_cost
from planner.solver.options import CEILING, ExpertSplit, expert_split, option_sets
from planner.strategies.demand import Demand, utility
from spectra import InputError
from tests.planner.examples import evidence_of, problem_of, site_of


@pytest.mark.parametrize("total", range(1, 40))
def test_a_total_rank_is_cut_into_nearly_equal_experts(total):
    ranks = ExpertSplit(expert_rank=4, max_experts=5, multiple=1).ranks(total)
    assert sum(ranks) == total
    assert len(ranks) == min(5, math.ceil(total / 4))
    assert max(ranks) - min(ranks) <= 1


@pytest.mark.parametrize(
    ("split", "total", "ranks"),
    [
        ({"expert_rank": 4, "max_experts": 8, "multiple": 1}, 0, ()),
        ({"expert_rank": 4, "max_experts": 8, "multiple": 1}, 9, (3, 3, 3)),
        ({"expert_rank": 4, "max_experts": 8, "multiple": 1}, 10, (4, 3, 3)),
        ({"expert_rank": 8, "max_experts": 3, "multiple": 8}, 40, (16, 16, 8)),
        ({"expert_rank": 4, "max_experts": 1, "multiple": 1}, 10, (10,)),
    ],
)
def test_experts_differ_by_one_multiple_at_most(split, total, ranks):
    assert ExpertSplit(**split).ranks(total) == ranks


def test_a_routed_expert_of_the_base_gets_one_lora():
    assert ExpertSplit(expert_rank=4, max_experts=8, multiple=1).ranks(10, expert=0) == (10,)


SITES = evidence_of(site_of("layers.0.q", shape=(64, 64)), site_of("layers.0.up", shape=(128, 64)))


@pytest.mark.parametrize(
    ("budget", "given", "rank", "most"),
    [
        ("rank 3", {}, 1, 8),
        ("rank 5", {}, 2, 8),
        ("rank 9", {}, 4, 8),
        ("rank 60", {}, 8, 8),
        ("4 experts", {}, 8, 8),
        ("rank 9", {"expert_rank": 16}, 16, 8),
        ("rank 9", {"max_experts": 3}, 4, 3),
        ("rank 3", {"rank_multiple": 4}, 4, 8),
    ],
)
def test_by_default_an_average_site_is_left_two_experts_of_at_most_eight(budget, given, rank, most):
    split = expert_split(problem_of(SITES, budget, strategy="sensitivity", **given))
    assert (split.expert_rank, split.max_experts) == (rank, most)


@pytest.mark.parametrize(
    ("budget", "given", "most"), [("rank 9", {}, 1), ("rank 9", {"expert_rank": 2}, 8),
     ("4 experts", {}, 8), ("rank 9", {"max_experts": 2}, 2)]
)  # fmt: skip
def test_a_plain_demand_gets_one_lora_unless_experts_are_asked_for(budget, given, most):
    plain = Demand(weights=(1.0, 1.0), plain=True)
    assert expert_split(problem_of(SITES, budget, demand=plain, **given)).max_experts == most


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"expert_rank": 65}, "`expert_rank` 65 gives a LoRA more parameters than the smallest matrix has; at most 32 fits"),
        ({"expert_rank": 6, "rank_multiple": 4}, "`expert_rank` 6 is no multiple of `rank_multiple` 4"),
    ],
)
def test_ranks_that_no_expert_can_have_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        expert_split(problem_of(SITES, **given))


def test_a_group_may_choose_every_rank_up_to_the_ceiling_at_the_cost_of_all_its_sites():
    problem = problem_of(SITES, "rank 4", strategy="sensitivity", granularity="layer", expert_rank=2)
    split = expert_split(problem)
    ((options, totals),) = option_sets(problem, split)
    assert totals == list(range(1, CEILING * 4 + 2))
    costs = [sum(site_cost(site.shape, split.ranks(total)) for site in SITES.sites) for total in totals]
    assert options.table.costs.tolist() == costs
    assert options.table.costs[1] == 2 * (128 + 192)
    assert options.table.costs[2] == 3 * (128 + 192) + 2 * 2 * 64  # the second expert brings a router to each
    np.testing.assert_array_equal(options.table.utility, utility("log1p", np.array(totals, dtype=float)))
    assert options.weight == 128 + 192


def test_weights_are_relative_to_the_largest_and_count_by_the_price_of_a_rank():
    problem = problem_of(SITES, demand=Demand(weights=(1.0, 4.0)))
    first, second = (options for options, _ in option_sets(problem, expert_split(problem)))
    assert (first.weight, second.weight) == (0.25 * 128, 192.0)


def test_groups_of_one_shape_share_their_table():
    evidence = evidence_of(*(site_of(f"layers.{layer}.q") for layer in range(3)), site_of("layers.0.up", shape=(9, 9)))
    problem = problem_of(evidence)
    tables = [options.table for options, _ in option_sets(problem, expert_split(problem))]
    assert tables[0] is tables[1] is tables[2] is not tables[3]


@pytest.mark.parametrize(
    ("given", "demand", "totals"),
    [
        ({"min_rank": 0, "max_rank": 3}, {}, [0, 1, 2, 3]),
        ({"max_rank": 3}, {}, [1, 2, 3]),
        ({"min_rank": 2, "max_rank": 9, "rank_multiple": 4}, {}, [4, 8]),
        ({"min_rank": 0, "max_rank": 3}, {"utility": "log"}, [1, 2, 3]),
        ({"min_rank": 0, "max_rank": 3}, {"utility": "log", "without_floor": "log1p"}, [0, 1, 2, 3]),
        ({"max_rank": 99, "max_experts": 1}, {}, list(range(1, 6))),  # rank 5 has 120 parameters of the matrix's 128
        ({"max_rank": 99, "max_experts": 2}, {}, list(range(1, 11))),
    ],
)
def test_limits_say_which_ranks_there_are(given, demand, totals):
    problem = problem_of(evidence_of(site_of("layers.0.q")), demand=Demand(weights=(1.0,), **demand), **given)
    ((_, found),) = option_sets(problem, expert_split(problem))
    assert found == totals


def test_routed_experts_may_go_without_where_a_strategy_spares_them():
    evidence = evidence_of(site_of("layers.0.q"), site_of("layers.0.experts.0.up"))
    for spares, floors in ((True, [1, 0]), (False, [1, 1])):
        problem = problem_of(evidence, demand=Demand(weights=(1.0, 1.0), spares_routed=spares))
        assert [totals[0] for _, totals in option_sets(problem, expert_split(problem))] == floors
    asked = problem_of(evidence, demand=Demand(weights=(1.0, 1.0), spares_routed=True), min_rank=1)
    assert [totals[0] for _, totals in option_sets(asked, expert_split(asked))] == [1, 1]


def test_limits_that_contradict_each_other_are_refused():
    problem = problem_of(evidence_of(site_of("layers.0.q")), min_rank=3, max_rank=3, rank_multiple=4, expert_rank=4)
    with pytest.raises(
        InputError, match=r"site 'layers.0.q': no rank is at least 4, at most 3 and a multiple of 4; change `min_rank`"
    ):
        option_sets(problem, expert_split(problem))


def test_a_group_of_both_kinds_gets_no_more_rank_than_a_routed_expert_can_hold():
    sites = evidence_of(site_of("layers.0.q", shape=(64, 64)), site_of("layers.0.mlp.experts.0.up_proj", shape=(8, 64)))
    problem = problem_of(sites, "rank 40", strategy="sensitivity", granularity="layer", max_experts=4)
    ((_, totals),) = option_sets(problem, expert_split(problem))
    assert totals[-1] == 7  # 7 (8 + 64) is less than 8 x 64
