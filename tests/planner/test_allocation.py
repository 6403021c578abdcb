import csv
import math
from pathlib import Path

import numpy as np
import pytest

import planner
from planner.allocation import Shape
from planner.strategies import STRATEGIES
from spectra import InputError, load_spectra, open_checkpoint
from spectra.sites import place

# AlphaLoRA's rule (beta 2.5, 160 experts) on the published alphas of LLaMA-7B, layer 0 first; computed independently with numpy.
LLAMA_7B_COUNTS = [
    3, 3, 4, 3, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 7, 6, 7, 8, 6, 6, 7, 8, 8, 8, 7, 8, 8, 5
]  # fmt: skip
ALPHAS = Path(__file__).parents[1] / "data" / "llama-7b-alpha-peak.csv"


@pytest.fixture(scope="module")
def sensitivity(minilm, small_corpus):
    from trainer import load_sample

    checkpoint = open_checkpoint(minilm)
    sample = load_sample(checkpoint, small_corpus[0], samples=16, max_length=32, seed=0)
    return planner.probe(sample.model, sample.batches, checkpoint=checkpoint)


@pytest.fixture
def evidence(spectra_report, sensitivity):
    return {"spectra": spectra_report, "sensitivity": sensitivity}


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("budget", ["60k", "1%", "4%"])
def test_every_strategy_stays_within_every_budget(evidence, strategy, budget):
    plan = planner.allocate(budget=budget, strategy=strategy, **evidence)
    assert len(plan.sites) == 36
    assert 0 < plan.parameters == plan.budget.spent <= plan.budget.cap
    assert plan.optimum.gap <= 1e-3
    again = planner.allocate(budget=budget, strategy=strategy, **evidence)
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize("strategy", ["uniform", "alphalora", "combined"])
def test_every_site_keeps_a_rank(evidence, strategy):
    plan = planner.allocate(budget="45k", strategy=strategy, **evidence)
    assert all(site.ranks for site in plan.sites)


def test_uniform_is_the_same_everywhere(evidence):
    plan = planner.allocate(budget="1%", strategy="uniform", **evidence)
    assert len({site.ranks for site in plan.sites}) == 1
    one_more = sum(sum(site.shape) for site in plan.sites)
    assert plan.budget.cap - plan.budget.spent < one_more + sum(site.shape[1] for site in plan.sites)


def test_alphalora_gives_a_layer_one_answer_and_light_tails_more(evidence, spectra_report):
    plan = planner.allocate(budget="4%", strategy="alphalora", **evidence)
    layers = {layer: [site for site in plan.sites if f"layer.{layer}." in site.name] for layer in range(6)}
    assert all(len({site.ranks for site in sites}) == 1 for sites in layers.values())
    alphas = [np.mean([site.alpha for site in sites]) for sites in layers.values()]
    totals = [sum(sites[0].ranks) for sites in layers.values()]
    assert list(np.argsort(alphas)[[0, -1]]) == list(np.argsort(totals)[[0, -1]])


def test_alphalora_reproduces_the_published_llama_rule():
    plan = planner.allocate(budget="160 experts", strategy="alphalora", spectra=load_spectra(ALPHAS))
    per_layer = [{len(site.ranks) for site in plan.sites if f".layers.{layer}." in site.name} for layer in range(32)]
    assert per_layer == [{count} for count in LLAMA_7B_COUNTS]
    assert (plan.budget.spent, plan.budget.unit) == (160, "experts")
    assert {rank for site in plan.sites for rank in site.ranks} == {8}
    assert plan.parameters == 160 * (624_640 + 35_584)  # no layer has a single expert, so all have routers


def test_lora_smoe_counts_tasks_within_each_projection_type(evidence):
    plan = planner.allocate(budget="1%", strategy="lora-smoe", **evidence)
    for projection in {place(site.name).projection for site in plan.sites}:
        sites = [site for site in plan.sites if place(site.name).projection == projection]
        chosen = {site.name for site in sites if site.ranks}
        top = sorted(sites, key=lambda site: -site.sensitivity)[: len(chosen)]
        assert chosen == {site.name for site in top}
        assert len(chosen) == 3  # 60 per cent of 6, strictly above the 40th percentile
    assert len({site.ranks for site in plan.sites}) == 2


def test_lora_smoe_gives_an_expert_per_task(evidence, sensitivity):
    second = sensitivity.model_copy(update={"tasks": (sensitivity.tasks[0].model_copy(update={"name": "other"}),)})
    both = planner.join([sensitivity, second])
    plan = planner.allocate(budget="2%", strategy="lora-smoe", sensitivity=both)
    assert {len(site.ranks) for site in plan.sites} == {0, 2}


def test_combined_follows_its_evidence_but_not_far(evidence):
    plan = planner.allocate(budget="1%", **evidence)
    weights = np.array([site.weight for site in plan.sites])
    assert plan.strategy == "combined"
    assert 1 < weights.max() / weights.min() < 10  # the raw product spans more than a thousand


def test_a_plan_that_is_uniform_says_so(evidence):
    plan = planner.allocate(budget="41472", strategy="alphalora", **evidence)
    assert plan.notes == ("after rounding, this plan is the uniform one: the evidence made no difference at this budget",)


def test_a_failed_fit_neither_attracts_nor_repels(evidence, spectra_report, sensitivity):
    broken = [site.model_copy(update={"alpha": math.nan}) if "layer.2" in site.name else site for site in spectra_report.sites]
    report = spectra_report.model_copy(update={"sites": tuple(broken)})
    plan = planner.allocate(budget="1%", strategy="alphalora", spectra=report)
    kept = [site.weight for site in plan.sites if "layer.2" in site.name]
    assert all(math.isfinite(weight) for weight in kept)
    assert min(site.weight for site in plan.sites) < kept[0] < max(site.weight for site in plan.sites)
    assert planner.allocate(budget="1%", spectra=report, sensitivity=sensitivity).parameters > 0


@pytest.mark.parametrize("total", range(1, 40))
def test_a_total_rank_is_cut_into_nearly_equal_experts(total):
    ranks = Shape(expert_rank=4, max_experts=5, top_k=2).ranks(total)
    assert sum(ranks) == total
    assert len(ranks) == min(5, math.ceil(total / 4))
    assert max(ranks) - min(ranks) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "1000"}, r"too small for one rank at each of the 36 sites, which takes 41,472"),
        ({"budget": "5 experts", "strategy": "alphalora"}, "does not fit 6 layers of 1 to 8 experts, which is 6 to 48"),
        ({"budget": "60 experts"}, "does not fit 6 layers of 1 to 8 experts, which is 6 to 48"),
        ({"budget": "10 experts", "expert_rank": 500}, "expert rank 500 exceeds the smallest side of a site, 384"),
        ({"budget": "1%", "strategy": "best"}, "strategy 'best': not one of uniform, alphalora"),
        ({"budget": "lots"}, "budget 'lots' cannot be read"),
        (
            {"budget": "1%", "spectra": None},
            "strategy 'combined' needs --spectra with measured values: make it with plan analyze",
        ),
        (
            {"budget": "1%", "sensitivity": None},
            "strategy 'combined' needs --sensitivity with measured values: make it with plan probe",
        ),
        ({"budget": "1%", "spectra": None, "sensitivity": None}, "nothing to allocate from"),
    ],
)
def test_bad_requests_are_one_clear_line(evidence, options, message):
    with pytest.raises(InputError, match=message):
        planner.allocate(**(evidence | options))


def test_evidence_of_another_model_is_refused(evidence, tiny_llama, spectra_report):
    import spectra

    other = spectra.analyze(tiny_llama)
    with pytest.raises(InputError, match="--spectra and --sensitivity are of different models"):
        planner.allocate(budget="1%", spectra=other, sensitivity=evidence["sensitivity"])
    fewer = spectra_report.model_copy(update={"sites": spectra_report.sites[:-2]})
    with pytest.raises(InputError, match=r"site 'encoder.layer.5.*' of the sensitivity report is no module of the model"):
        planner.allocate(budget="1%", spectra=fewer, sensitivity=evidence["sensitivity"])


def test_names_of_a_model_with_a_head_still_join(evidence, spectra_report):
    prefixed = [site.model_copy(update={"name": "bert." + site.name}) for site in spectra_report.sites]
    report = spectra_report.model_copy(update={"sites": tuple(prefixed)})
    one = planner.allocate(budget="1%", spectra=report, sensitivity=evidence["sensitivity"])
    other = planner.allocate(budget="1%", **evidence)
    assert [site.ranks for site in one.sites] == [site.ranks for site in other.sites]


def test_the_alphas_under_test_are_the_published_ones():
    rows = list(csv.DictReader(ALPHAS.read_text().splitlines()))
    assert len(rows) == 224
    assert np.mean([float(row["alpha"]) for row in rows]) == pytest.approx(3.358, abs=5e-4)


def test_shapes_come_from_the_report_that_was_made_from_a_checkpoint(sensitivity, spectra_report, tmp_path):
    table = tmp_path / "table.csv"
    rows = [f"{site.name},{max(site.shape)},{min(site.shape)},{site.alpha}" for site in spectra_report.sites]
    table.write_text("\n".join(["longname,N,M,alpha", *rows]))  # weightwatcher's table forgets which side is the input
    plan = planner.allocate(budget="1%", spectra=load_spectra(table), sensitivity=sensitivity)
    assert plan.model == sensitivity.model
    assert {site.shape for site in plan.sites} == {(384, 384), (1536, 384), (384, 1536)}
    alone = planner.allocate(budget="1%", strategy="alphalora", spectra=load_spectra(table))
    assert "may not say which side is the input" in alone.notes[0]


def test_a_budget_that_cannot_be_spent_says_so(tiny_llama):
    plan = planner.allocate(budget="900%", strategy="uniform", model=open_checkpoint(tiny_llama))
    assert "most of the budget is left" in plan.notes[0]
