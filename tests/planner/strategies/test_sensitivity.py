import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.sensitivity import sensitivity
from spectra import InputError
from spectra.core.methods import NoSettings
from tests.planner.examples import evidence_of, site_of


@pytest.mark.parametrize("statistic", ["squared-gradient", "magnitude", "taylor", "fisher"])
def test_sensitivity_is_proportional(evidence, statistic):
    plan = allocate("8%", AllocationSettings(strategy="sensitivity", statistic=statistic, max_experts=1), **evidence)
    values, totals = np.array([(site.sensitivity, sum(site.ranks)) for site in plan.sites]).T
    widest = np.array([site.shape[0] * site.shape[1] // sum(site.shape) for site in plan.sites])
    inner = (totals > 1) & (totals < np.minimum(totals.max(), widest))
    assert np.corrcoef(values[inner], totals[inner])[0, 1] > 0.99


def test_tasks_weigh_equally_whatever_their_scale():
    evidence = evidence_of(site_of("layers.0.q", tasks=(3.0, 100.0)), site_of("layers.1.q", tasks=(1.0, 300.0)))
    demand = sensitivity(evidence, NoSettings())
    assert demand.weights == (0.5, 0.5)
    assert (demand.utility, demand.without_floor) == ("log", "log1p")
    (one, other) = sensitivity(evidence_of(site_of("a.0.q", tasks=(3.0,)), site_of("a.1.q", tasks=(1.0,))), NoSettings()).weights
    assert one == 3 * other


def test_gradients_that_are_all_zero_say_nothing():
    evidence = evidence_of(site_of("layers.0.q", tasks=(0.0,)), site_of("layers.1.q", tasks=(0.0,)))
    with pytest.raises(InputError, match="strategy 'sensitivity': every gradient in the sensitivity report is zero"):
        sensitivity(evidence, NoSettings())


def test_a_scarce_budget_leaves_out_the_modules_of_least_sensitivity_where_they_may_go_without(evidence):
    settings = AllocationSettings(strategy="sensitivity", min_rank=0, max_experts=1)
    plan = allocate("20k", settings, **evidence)
    assert plan.optimum.utility == "log1p"
    left_out, adapted = ([site.weight for site in plan.sites if bool(site.ranks) is has] for has in (False, True))
    assert left_out
    assert max(left_out) < min(adapted)
    assert allocate("60k", AllocationSettings(strategy="sensitivity"), **evidence).optimum.utility == "log"
