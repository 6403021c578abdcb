import math

import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.effective_rank import effective_rank
from spectra import InputError
from spectra.checkpoint.names import projection_type
from spectra.core.methods import NoSettings
from tests.planner.examples import evidence_of, site_of


def demand_of(*sites):
    return effective_rank(evidence_of(*sites), NoSettings())


def test_weights_are_effective_ranks_over_their_types_mean_tasks_weighing_equally():
    demand = demand_of(
        site_of("layers.0.q", tasks=(1.0, 1.0), effective_rank=(3.0, 1.0)),
        site_of("layers.1.q", tasks=(1.0, 1.0), effective_rank=(1.0, 1.0)),
        site_of("layers.0.up", tasks=(1.0, 1.0), effective_rank=(50.0, 2.0)),
    )
    assert demand.weights == (1.25, 0.75, 1.0)
    assert (demand.utility, demand.without_floor, demand.plain, demand.granularity) == ("log", "log1p", True, "module")


def test_a_gradient_without_directions_asks_for_nothing():
    sites = [site_of(f"layers.{at}.q", tasks=(1.0,), effective_rank=(rank,)) for at, rank in enumerate([math.nan, 3.0])]
    assert demand_of(*sites).weights == (0.0, 2.0)


def test_rank_follows_the_effective_rank_within_a_type_and_every_type_keeps_its_share(evidence):
    plan = allocate("rank 32", AllocationSettings(strategy="effective-rank"), **evidence)
    known = evidence["sensitivity"].by_name()
    for projection in {projection_type(site.name) for site in plan.sites}:
        members = [site for site in plan.sites if projection_type(site.name) == projection]
        directions, ranks = np.array([(known[site.name].effective_rank[0], sum(site.ranks)) for site in members]).T
        np.testing.assert_allclose(ranks, 32 * directions / directions.mean(), atol=1.0)
        assert len(set(ranks)) > 1
        assert np.mean(ranks) == pytest.approx(32, rel=0.03)
    assert plan.settings.max_experts == 1


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (site_of("layers.0.q"), "strategy 'effective-rank' needs `sensitivity` with measured values: make it with plan probe"),
        (site_of("layers.0.q", tasks=(1.0,)), "site 'layers.0.q': its gradient's effective rank was not measured"),
        (site_of("layers.0.q", tasks=(0.0,), effective_rank=(math.nan,)),
         "strategy 'effective-rank': every gradient in the sensitivity report is zero"),
    ],
)  # fmt: skip
def test_gradients_with_their_effective_ranks_are_needed(site, message):
    with pytest.raises(InputError, match=message):
        demand_of(site)


def test_routed_experts_are_no_site_for_it(routed):
    with pytest.raises(InputError, match=r"effective rank was not measured; plan probe measures it with `effective_rank`"):
        allocate("20k", AllocationSettings(strategy="effective-rank"), **routed)
