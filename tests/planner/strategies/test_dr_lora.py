import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.dr_lora import dr_lora
from spectra.checkpoint.names import expert_index, parse_name
from spectra.core.methods import NoSettings
from tests.planner.examples import evidence_of, site_of


def test_dr_lora_on_a_dense_model_is_the_greedy_growth_run_to_its_end(evidence):
    plan = allocate("2%", AllocationSettings(strategy="dr-lora", max_experts=1, max_rank=64), **evidence)
    weights = np.array([site.weight for site in plan.sites])
    grown = [1] * len(weights)
    costs = [sum(site.shape) for site in plan.sites]
    left = plan.budget.limit - sum(costs)
    while True:  # saliency f g / (r + 1)^1.2, one rank at a time to the most salient that can be paid
        saliency = [weight / (rank + 1) ** 1.2 if cost <= left and rank < 64 else -1
                    for weight, rank, cost in zip(weights, grown, costs, strict=True)]  # fmt: skip
        best = int(np.argmax(saliency))
        if saliency[best] < 0:
            break
        grown[best] += 1
        left -= costs[best]
    ours = np.array([sum(site.ranks) for site in plan.sites])
    assert np.abs(ours - grown).max() <= 2  # they part over what the last few parameters buy
    gain = lambda ranks: sum(w * c * sum(k**-1.2 for k in range(1, r + 1))  # noqa: E731
                             for w, c, r in zip(weights, costs, ranks, strict=True))  # fmt: skip
    assert gain(ours) >= gain(grown) * (1 - 1e-9)


def test_dr_lora_follows_demand_and_leaves_the_rest_alone(routed):
    plan = allocate("20k", AllocationSettings(strategy="dr-lora"), **routed)
    adapted = [site for site in plan.sites if site.ranks]
    assert all(site.routed and len(site.ranks) == 1 and site.top_k == 1 for site in adapted)
    assert len(adapted) == 2 * 4 * 2  # gates and attention are left alone
    by_expert = {}
    for site in adapted:
        by_expert.setdefault((parse_name(site.name).layer, expert_index(site.name)), set()).add(site.ranks)
    assert all(len(ranks) == 1 for ranks in by_expert.values())
    weights, totals = np.array([(site.weight, sum(site.ranks)) for site in adapted]).T
    assert (np.diff(totals[np.argsort(weights)]) >= -1).all()
    assert len(set(totals.tolist())) > 1


def test_weights_are_demand_times_gradient_each_a_share_of_the_layer():
    def expert(number, share, up, down, part="mlp.experts"):
        names = (f"layers.0.{part}.{number}.{projection}" for projection in ("up_proj", "down_proj", "gate_proj"))
        return [site_of(name, tasks=(value,), token_share=share) for name, value in zip(names, (up, down, 99.0), strict=True)]

    evidence = evidence_of(*expert(0, 0.75, 2.0, 4.0), *expert(1, 0.25, 1.0, 1.0), site_of("layers.0.q", tasks=(5.0,)))
    demand = dr_lora(evidence, NoSettings())
    # of both adapted projections of two experts: f is 3/8 and 1/8, g the mean of 2 and 4 over 8, and 1 over 8
    assert demand.weights == pytest.approx((9 / 64, 9 / 64, 0, 1 / 64, 1 / 64, 0, 0), rel=1e-4)
    assert (demand.granularity, demand.utility) == ("expert", "power")


def test_in_a_dense_model_every_module_is_its_own_expert():
    evidence = evidence_of(
        *(site_of(f"layers.{at // 2}.{'qv'[at % 2]}", tasks=(value,)) for at, value in enumerate((1, 3, 5, 5)))
    )
    demand = dr_lora(evidence, NoSettings())
    assert demand.weights == pytest.approx((0.5 * 0.25, 0.5 * 0.75, 0.5 * 0.5, 0.5 * 0.5), rel=1e-4)
    assert demand.granularity == "module"
