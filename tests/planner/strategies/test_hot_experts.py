import pytest

from planner import AllocationSettings, allocate
from planner.strategies.hot_experts import HotExpertsSettings, hot_experts
from spectra import InputError
from spectra.checkpoint.names import expert_index, parse_name
from tests.planner.examples import evidence_of, site_of


def test_hot_experts_are_the_most_routed_quarter_of_each_layer(routed):
    plan = allocate("20k", AllocationSettings(strategy="hot-experts"), **routed)
    by_layer = {}
    for site in plan.sites:
        if site.routed:
            by_layer.setdefault(parse_name(site.name).layer, {}).setdefault(expert_index(site.name), []).append(site)
    for experts in by_layer.values():
        adapted = [expert for expert, sites in experts.items() if all(site.ranks for site in sites)]
        assert len(adapted) == 1
        assert experts[adapted[0]][0].token_share == max(sites[0].token_share for sites in experts.values())
    assert all(site.routed for site in plan.sites if site.ranks)


def experts(shares, layer=0):
    return [site_of(f"layers.{layer}.experts.{at}.up", tasks=(1.0,), token_share=share) for at, share in enumerate(shares)]


def test_a_quarter_is_rounded_up_and_ties_go_to_the_lower_number():
    five = experts([0.1, 0.5, 0.5, 0.5, 0.4]) + experts([0.2, 0.1, 0.3], layer=1)
    demand = hot_experts(evidence_of(*five, site_of("layers.0.q", tasks=(1.0,))), HotExpertsSettings())
    assert demand.weights == (0, 1, 1, 0, 0, 0, 0, 1, 0)
    assert demand.granularity == "model"
    assert hot_experts(evidence_of(*five), HotExpertsSettings(hot_share=0.5)).weights == (0, 1, 1, 1, 0, 1, 0, 1)


def test_a_dense_model_has_none():
    with pytest.raises(InputError, match="knows no routed experts; it is for mixture-of-experts models"):
        hot_experts(evidence_of(site_of("layers.0.q", tasks=(1.0,))), HotExpertsSettings())
