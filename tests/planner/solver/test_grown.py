import pytest

from planner.solver.grown import grown_ranks
from planner.strategies.demand import Demand
from planner.strategies.growth import GrowthRule
from spectra import InputError
from tests.planner.examples import evidence_of, problem_of, site_of

EXPERTS = evidence_of(
    *(site_of(f"layers.{layer}.experts.{expert}.up", shape=(64, 64), token_share=0.25)
      for layer in range(2) for expert in range(4)),
    site_of("layers.0.q", shape=(64, 64)),
)  # fmt: skip
WEIGHTS = (4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)


def ranks(budget, weights=WEIGHTS, **given):
    rule = GrowthRule(**given)
    return grown_ranks(problem_of(EXPERTS, budget, demand=Demand(weights=weights, growth=rule)), rule)


def test_every_layer_has_the_same_mean_and_its_most_salient_more():
    found = ranks(str(8 * 8 * 128))
    assert found[8] == 0
    assert sum(found[:4]) == sum(found[4:8]) == 4 * 8
    assert found[0] > 8 > max(found[1:4])
    assert found[4:8] == [8] * 4


@pytest.mark.parametrize("extra", [0, 1, 127, 128 * 2 - 1])
def test_the_mean_is_the_largest_that_the_budget_affords(extra):
    assert sum(ranks(str(8 * 8 * 128 + extra))) == 64
    assert sum(ranks(str(8 * 8 * 128 + 128 * 2))) == 66


def test_no_expert_is_larger_than_its_matrix():
    assert max(ranks("100M")) == 32  # 32 (64 + 64) = 64 x 64


def test_too_little_and_a_number_of_experts_are_refused():
    with pytest.raises(InputError, match="is too small for one rank at each of the 8 sites, which takes 1,024"):
        ranks("1000")
    with pytest.raises(InputError, match="growth shares out ranks"):
        ranks("9 experts")
