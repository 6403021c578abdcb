import math

import pytest

from planner import AllocationSettings, allocate
from planner.strategies.dr_lora import dr_lora
from planner.strategies.growth import GrowthRule
from spectra import InputError
from spectra.checkpoint.names import expert_index, parse_name
from tests.planner.examples import evidence_of, site_of
from tests.reference.growth import reference_run


@pytest.mark.parametrize("handout", ["one-by-one", "one-pass"])
def test_the_plan_is_where_growth_under_the_same_signals_ends(routed, handout):
    given = {"growth_handout": handout}
    settings = AllocationSettings(strategy={"name": "dr-lora", "settings": given}, modules="up_proj,down_proj")
    plan = allocate("rank 6", settings, **routed)
    layers = {}
    for site in plan.sites:
        if site.ranks:
            of_layer = layers.setdefault(parse_name(site.name).layer, {})
            of_layer[expert_index(site.name)] = (site.weight, site.ranks[0])
    assert len(layers) == 2
    for experts in layers.values():
        assert sorted(experts) == [0, 1, 2, 3]
        weights, ranks = zip(*(experts[expert] for expert in range(4)), strict=True)
        assert list(ranks) == reference_run(weights, 4 * 6, handout)  # a rank as budget counts the chosen modules alone


def test_in_a_dense_model_a_layers_modules_share_its_ranks(evidence):
    plan = allocate("2%", AllocationSettings(strategy="dr-lora"), **evidence)
    assert all(len(site.ranks) == 1 for site in plan.sites)
    totals = {}
    for site in plan.sites:
        totals.setdefault(parse_name(site.name).layer, []).append(site.ranks[0])
    (mean,) = {sum(ranks) / len(ranks) for ranks in totals.values()}  # every layer has as much
    assert all(int(mean / 2) <= rank <= 2 * (int(mean) + 1) for ranks in totals.values() for rank in ranks)
    dearer = 6 * max(sum(site.shape) for site in plan.sites)
    assert plan.budget.limit - plan.parameters <= 6 * dearer  # one rank more in each layer would not have fitted


@pytest.mark.parametrize(
    ("budget", "given", "message"),
    [
        ("10 experts", {}, "has routed experts of its own, which take one LoRA each"),
        ("100", {}, r"is too small for one rank at each of the \d+ sites"),
        ("8k", {"max_rank": 4}, "`max_rank` has no effect on strategy 'dr-lora'"),
        ("match rank 2", {}, "compares plans by their objective, and 'dr-lora' has none here"),
        ("8k", {"modules": "q_prj"}, "`modules` 'q_prj': no such module; the model has"),
    ],
)
def test_what_growth_cannot_do_is_refused(routed, budget, given, message):
    with pytest.raises(InputError, match=message):
        allocate(budget, AllocationSettings(strategy="dr-lora", **given), **routed)


def test_dr_lora_follows_demand_and_leaves_the_rest_alone(routed):
    plan = allocate("8k", AllocationSettings(strategy="dr-lora"), **routed)
    adapted = [site for site in plan.sites if site.ranks]
    assert all(site.routed and len(site.ranks) == 1 and site.top_k == 1 for site in adapted)
    assert len(adapted) == 2 * 4 * 2  # gates and attention are left alone
    by_expert = {}
    for site in adapted:
        by_expert.setdefault((parse_name(site.name).layer, expert_index(site.name)), set()).add(site.ranks)
    assert all(len(ranks) == 1 for ranks in by_expert.values())
    assert len({site.ranks for site in adapted}) > 1


def test_weights_are_demand_times_gradient_each_a_share_of_the_layer():
    def expert(number, share, up, down, part="mlp.experts"):
        names = (f"layers.0.{part}.{number}.{projection}" for projection in ("up_proj", "down_proj", "gate_proj"))
        return [site_of(name, tasks=(value,), token_share=share) for name, value in zip(names, (up, down, 99.0), strict=True)]

    evidence = evidence_of(*expert(0, 0.75, 2.0, 4.0), *expert(1, 0.25, 1.0, 1.0), site_of("layers.0.q", tasks=(5.0,)))
    demand = dr_lora(evidence, GrowthRule())
    # of both adapted projections of two experts: f is 3/8 and 1/8, g the mean of 2 and 4 over 8, and 1 over 8
    assert demand.weights == pytest.approx((9 / 64, 9 / 64, 0, 1 / 64, 1 / 64, 0, 0), rel=1e-4)
    assert (demand.granularity, demand.growth) == ("expert", GrowthRule())


def test_in_a_dense_model_every_module_is_its_own_expert():
    evidence = evidence_of(
        *(site_of(f"layers.{at // 2}.{'qv'[at % 2]}", tasks=(value,)) for at, value in enumerate((1, 3, 5, 5)))
    )
    demand = dr_lora(evidence, GrowthRule())
    assert demand.weights == pytest.approx((0.5 * 0.25, 0.5 * 0.75, 0.5 * 0.5, 0.5 * 0.5), rel=1e-4)
    assert demand.granularity == "module"


def test_tokens_may_count_that_are_not_learned():
    def expert(number, learned, of_all):
        return site_of(f"layers.0.mlp.experts.{number}.up_proj", tasks=(1.0,), token_share=learned, all_share=of_all)

    evidence = evidence_of(expert(0, 0.75, 0.25), expert(1, 0.25, 0.75))
    learned, of_all = (dr_lora(evidence, GrowthRule(growth_tokens=tokens)).weights for tokens in ("learned", "all"))
    assert learned == pytest.approx(of_all[::-1])
    with pytest.raises(InputError, match="`growth_tokens` all: the sensitivity report knows shares of learned tokens alone"):
        dr_lora(evidence_of(expert(0, 0.75, math.nan), expert(1, 0.25, math.nan)), GrowthRule(growth_tokens="all"))
