"""Planning for a mixture-of-experts model, from its checkpoint and its probe to the plan."""

import numpy as np
import pytest
import torch
import transformers

import planner
import spectra
from planner.views.maps import maps
from planner.views.plots import evidence_figure
from planner.views.tables import difference_table, plan_table, sensitivity_tables
from spectra import InputError, open_checkpoint
from spectra.checkpoint.names import expert_index, is_adaptable, parse_name

FAMILIES = {
    "olmoe": lambda size: transformers.OlmoeConfig(**size, num_experts=4),
    "mixtral": lambda size: transformers.MixtralConfig(**size, num_local_experts=4),
    "gpt-oss": lambda size: transformers.GptOssConfig(**size, num_local_experts=4, head_dim=8),
}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def routed(request, tmp_path_factory):
    """Checkpoint, spectra and sensitivity of a tiny model of routed experts."""
    size = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "num_experts_per_tok": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param](size))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    ids = torch.randint(3, 50, (8, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return {
        "model": checkpoint,
        "spectra": spectra.analyze(folder),
        "sensitivity": planner.probe(model, [batch], checkpoint=checkpoint),
    }


def test_the_probe_knows_every_matrix_of_the_checkpoint(routed):
    adaptable = {name for name in routed["model"].modules() if is_adaptable(name)}
    assert {site.name for site in routed["sensitivity"].sites} == adaptable
    shares = {}
    for site in routed["sensitivity"].sites:
        if site.routing and site.name.endswith(("down_proj", "w2")):
            shares.setdefault(parse_name(site.name).layer, []).append(site.routing[0].frequency)
    assert all(sum(layer) == pytest.approx(2) for layer in shares.values())


def test_dr_lora_follows_demand_and_leaves_the_rest_alone(routed):
    plan = planner.allocate(budget="20k", strategy="dr-lora", **routed)
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


def test_hot_experts_are_the_most_routed_quarter_of_each_layer(routed):
    plan = planner.allocate(budget="20k", strategy="hot-experts", **routed)
    by_layer = {}
    for site in plan.sites:
        if site.routed:
            by_layer.setdefault(parse_name(site.name).layer, {}).setdefault(expert_index(site.name), []).append(site)
    for experts in by_layer.values():
        adapted = [expert for expert, sites in experts.items() if all(site.ranks for site in sites)]
        assert len(adapted) == 1
        assert experts[adapted[0]][0].routing == max(sites[0].routing for sites in experts.values())
    assert all(site.routed for site in plan.sites if site.ranks)


def with_routing(report, frequency):
    """The same report, had the tokens chosen experts as `frequency(expert)` says."""

    def changed(site):
        expert = expert_index(site.name)
        if expert is None:
            return site
        routing = tuple(task.model_copy(update={"frequency": frequency(expert)}) for task in site.routing)
        return site.model_copy(update={"routing": routing})

    return report.model_copy(update={"sites": tuple(map(changed, report.sites))})


def test_combined_shares_rank_by_the_tokens_that_pass(routed):
    shares = [1.0, 0.7, 0.3, 0.0]
    evidence = routed | {"sensitivity": with_routing(routed["sensitivity"], shares.__getitem__)}
    plan = planner.allocate(budget="20k", strategy="combined", **evidence)
    ranks = {expert: [] for expert in range(4)}
    for site in plan.sites:
        if site.routed:
            ranks[expert_index(site.name)].append(sum(site.ranks))
    means = [np.mean(ranks[expert]) for expert in range(4)]
    assert means == sorted(means, reverse=True)
    assert ranks[3] == [0] * len(ranks[3])  # who sees no token learns nothing
    assert all(site.ranks for site in plan.sites if not site.routed)
    assert plan.notes[-1].startswith("in our study such plans beat uniform")
    asked = planner.allocate(budget="20k", strategy="combined", min_rank=1, **evidence)
    assert all(site.ranks for site in asked.sites)


def test_combined_must_know_who_is_routed_to(routed):
    silent = tuple(site.model_copy(update={"routing": ()}) for site in routed["sensitivity"].sites)
    evidence = routed | {"sensitivity": routed["sensitivity"].model_copy(update={"sites": silent})}
    with pytest.raises(InputError, match="the sensitivity report does not say how many tokens reach it"):
        planner.allocate(budget="20k", strategy="combined", **evidence)


@pytest.mark.parametrize("strategy", ["uniform", "combined", "sensitivity", "random"])
def test_every_strategy_plans_experts_with_one_lora_each(routed, strategy):
    plan = planner.allocate(budget="60k", strategy=strategy, **routed)
    assert plan.budget.spent <= plan.budget.limit
    assert all(len(site.ranks) <= 1 for site in plan.sites if site.routed)
    assert planner.mismatches(plan, routed["model"]) == []


def test_experts_cannot_be_prescribed_for_routed_experts(routed):
    for options in ({"budget": "4 experts"}, {"budget": "900k", "strategy": "mola", "parity": True}):
        with pytest.raises(InputError, match="has routed experts of its own, which take one LoRA each"):
            planner.allocate(**({"strategy": "uniform"} | options), **routed)


def test_tables_and_maps_show_experts(routed):
    plan = planner.allocate(budget="60k", **routed)
    assert plan_table(plan).row_count == len(plan.sites)
    assert [table.row_count for table in sensitivity_tables(routed["sensitivity"])] == [2]
    shown = maps({site.name: site.weight for site in plan.sites})
    assert shown[0].title == ""
    assert all(one.values.shape == (2, 4) for one in shown[1:])
    other = planner.allocate(budget="60k", strategy="uniform", **routed)
    assert 0 < difference_table(plan, other).row_count <= len(plan.sites)


def test_evidence_is_drawn_for_experts_too(routed):
    figure = evidence_figure(planner.allocate(budget="60k", **routed))
    titles = [title for axes in figure.axes if axes.get_visible() and (title := axes.get_title(loc="left"))]
    assert sum("by expert" in title for title in titles) == 5
    assert any(title.startswith("share of tokens") for title in titles)
    assert len(titles) == 9


def test_peft_cannot_express_experts(routed):
    plan = planner.allocate(budget="60k", strategy="uniform", **routed)
    with pytest.raises(InputError, match="is a routed expert, which a LoraConfig names by layer only"):
        planner.export(plan, "peft")
