import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.random import RandomSettings, random
from spectra import InputError
from tests.planner.examples import evidence_of, site_of


def test_random_plans_differ_by_seed_only(evidence):
    plans = [
        allocate("1%", AllocationSettings(strategy={"name": "random", "settings": {"seed": seed}}), **evidence)
        for seed in (0, 0, 1)
    ]
    ranks = [[site.ranks for site in plan.sites] for plan in plans]
    assert ranks[0] == ranks[1] != ranks[2]


def test_a_draw_is_exponential_and_its_seeds_alone():
    evidence = evidence_of(*(site_of(f"layers.{layer}.q", alpha=layer) for layer in range(4000)))
    demand = random(evidence, RandomSettings(seed=3))
    assert demand.weights == tuple(np.random.default_rng(3).exponential(size=4000))
    assert np.mean(demand.weights) == pytest.approx(1.0, abs=0.05)
    assert (demand.utility, demand.without_floor, demand.granularity) == ("log", "log1p", "module")


def test_without_a_floor_a_scarce_budget_leaves_modules_out(evidence):
    plan = allocate("20k", AllocationSettings(strategy="random", min_rank=0), **evidence)
    assert any(not site.ranks for site in plan.sites)
    assert plan.optimum.utility == "log1p"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_other_seeds_are_refused(seed):
    with pytest.raises(InputError, match="strategy random: seed: "):
        AllocationSettings.checked({"strategy": {"name": "random", "settings": {"seed": seed}}}, "settings")
