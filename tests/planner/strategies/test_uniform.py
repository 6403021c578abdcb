from planner import AllocationSettings, allocate
from planner.strategies.uniform import uniform
from spectra.core.methods import NoSettings
from tests.planner.examples import evidence_of, site_of


def test_uniform_is_the_same_everywhere(evidence):
    plan = allocate("1%", AllocationSettings(strategy="uniform"), **evidence)
    assert len({site.ranks for site in plan.sites}) == 1
    one_more = sum(sum(site.shape) for site in plan.sites)
    assert plan.budget.limit - plan.budget.spent < one_more + sum(site.shape[1] for site in plan.sites)


def test_uniform_needs_no_evidence():
    demand = uniform(evidence_of(site_of("layers.0.q"), site_of("layers.0.up", shape=(2, 9))), NoSettings())
    assert (demand.weights, demand.granularity, demand.plain) == ((1.0, 1.0), "model", True)
