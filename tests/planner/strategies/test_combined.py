"""What `combined` makes of spectra, gradients, token shares and trial runs."""

import numpy as np
import pandas as pd
import pytest

from planner import AllocationSettings, allocate
from planner.sensitivity.report import Estimate, TrialRun
from planner.strategies.combined import CombinedSettings, combined
from planner.views.tables import plan_summary
from spectra import InputError
from spectra.checkpoint.names import expert_index, parse_name, projection_type
from tests.planner.examples import evidence_of, site_of


def test_combined_follows_its_evidence_but_not_far(evidence):
    plan = allocate("1%", **evidence)
    weights = np.array([site.weight for site in plan.sites])
    assert plan.strategy == "combined"
    assert 1 < weights.max() / weights.min() < 10  # the raw product spans more than a thousand


def test_noise_moves_evidence_towards_its_types_mean(spectra_report, sensitivity):
    clean = allocate("1%", AllocationSettings(strategy="combined"), spectra=spectra_report, sensitivity=sensitivity)

    def noisier(site):
        estimates = tuple(Estimate(mean=one.mean, error=3 * one.mean) for one in site.squared_gradient)
        return site.model_copy(update={"squared_gradient": estimates})

    noisy = [noisier(site) for site in sensitivity.sites]
    report = sensitivity.model_copy(update={"sites": tuple(noisy)})
    plan = allocate("1%", AllocationSettings(strategy="combined"), spectra=spectra_report, sensitivity=report)

    def spread(plan):  # within types: between them combined also weighs the price
        weights = pd.Series(np.log([site.weight for site in plan.sites]))
        return (weights - weights.groupby([projection_type(site.name) for site in plan.sites]).transform("mean")).std()

    assert spread(plan) < 0.7 * spread(clean)


def test_without_evidence_combined_is_uniform(spectra_report, sensitivity):
    flat = [site.model_copy(update={"alpha": 3.0}) for site in spectra_report.sites]
    even = [
        site.model_copy(update={"squared_gradient": (Estimate(mean=float(site.shape[0] * site.shape[1]), error=0.0),)})
        for site in sensitivity.sites
    ]
    plan = allocate(
        "rank 4", AllocationSettings(max_experts=1),
        spectra=spectra_report.model_copy(update={"sites": tuple(flat)}),
        sensitivity=sensitivity.model_copy(update={"sites": tuple(even)}),
    )  # fmt: skip
    assert {site.ranks for site in plan.sites} == {(4,)}


def test_combined_and_uniform_plan_one_lora_per_module_unless_asked_for_more(evidence):
    plan = allocate("2%", **evidence)
    even = allocate("2%", AllocationSettings(strategy="uniform"), **evidence)
    assert {len(site.ranks) for site in (*plan.sites, *even.sites)} == {1}
    assert plan.settings.max_experts == even.settings.max_experts == 1
    assert "36 of 36 sites adapted, one LoRA of rank " in plan_summary(plan)
    split = allocate("2%", AllocationSettings(expert_rank=2), **evidence)
    assert all(rank <= 3 for site in split.sites for rank in site.ranks)
    assert any(len(site.ranks) > 1 for site in split.sites)
    asked = allocate("2%", AllocationSettings(max_experts=4), **evidence)
    mixtures = sum(len(site.ranks) > 1 for site in asked.sites)
    assert mixtures
    assert f"{mixtures} of 36 sites are mixtures with routers" in " ".join(note.text for note in asked.notes)
    assert max(len(site.ranks) for site in allocate("30 experts", **evidence).sites) > 1


def after_trial_run(evidence, loss_reduction, error, gap=0.0, strategy="combined"):
    """A plan after a trial run in which a site of layer l brought loss_reduction(l) per parameter."""
    report = evidence["sensitivity"]
    found = {
        site.name: Estimate(mean=loss_reduction(parse_name(site.name).layer) * sum(site.shape), error=error * sum(site.shape))
        for site in report.sites
    }
    reduced = Estimate(mean=sum(one.mean for one in found.values()), error=error)
    how = TrialRun(rank=2, steps=30, batch_size=32, learning_rate=1e-3, examples=64, loss_reduction=reduced, gap=gap)
    settings = AllocationSettings(strategy=strategy, max_experts=1)
    return allocate("rank 4", settings, spectra=evidence["spectra"], sensitivity=report.with_trial_run(how, found))


def by_layer(plan):
    return [sum(sum(site.ranks) for site in plan.sites if parse_name(site.name).layer == layer) for layer in range(6)]


def test_combined_follows_what_was_measured_and_starves_nothing(evidence):
    plan = after_trial_run(evidence, lambda layer: 1e-6 * (layer + 1), 0.0)
    assert by_layer(plan) == sorted(by_layer(plan))
    assert by_layer(plan)[5] > 3 * by_layer(plan)[0]
    assert all(site.ranks and site.loss_reduction > 0 for site in plan.sites)
    said = {note.about: note.text for note in plan.notes}
    assert said["little to win on dense models"].startswith(
        "On small dense models in our study, such plans were level with uniform LoRA"
    )


def test_combined_stands_half_way_between_what_it_knew_and_what_was_measured(evidence):
    before, after = (
        np.array([site.weight for site in plan.sites])
        for plan in (allocate("rank 4", **evidence), after_trial_run(evidence, lambda layer: 1e-6 * (layer + 1), 0.0))
    )
    layers = np.repeat(np.arange(6), 6) + 1
    np.testing.assert_allclose(after, (before + layers / layers.mean()) / 2, rtol=1e-9)


def test_combined_does_without_a_trial_run_that_gained_nothing(evidence):
    without = allocate("rank 4", AllocationSettings(max_experts=1), **evidence)
    plan = after_trial_run(evidence, lambda layer: 1e-8 * (layer - 2.5), 1e-6)
    assert [site.ranks for site in plan.sites] == [site.ranks for site in without.sites]
    assert plan.notes[0].text.startswith("The trial run reduced the loss by no more than noise")
    assert without.notes[0].text.startswith("Made without a trial run")


def test_combined_refuses_a_trial_run_that_missed_too_much_unless_it_is_told_not_to(evidence):
    measured = {"loss_reduction": lambda layer: 1e-6 * (layer + 1), "error": 0.0}
    with pytest.raises(
        InputError,
        match=r"trial run of 'task': the modules' loss reductions miss 31% of what it gained; probe again with a smaller learning"
        r" rate or fewer `trial_steps`, or set `incomplete` to plan from it",
    ):
        after_trial_run(evidence, **measured, gap=0.31)
    told = {"name": "combined", "settings": {"incomplete": True}}
    assert after_trial_run(evidence, **measured, gap=0.31, strategy=told).sites == after_trial_run(evidence, **measured).sites
    for strategy in ("uniform", "sensitivity", "effective-rank"):  # which never look at it
        assert after_trial_run(evidence, **measured, gap=0.31, strategy=strategy).parameters
    noise = after_trial_run(evidence, lambda layer: 1e-8 * (layer - 2.5), 1e-6, gap=0.31)
    assert noise.notes[0].text.startswith("The trial run reduced the loss by no more than noise")


def with_usage(report, token_share):
    """The same report, had the tokens chosen experts as `token_share(expert)` says."""

    def changed(site):
        expert = expert_index(site.name)
        if expert is None:
            return site
        usage = tuple(task.model_copy(update={"token_share": token_share(expert)}) for task in site.usage)
        return site.model_copy(update={"usage": usage})

    return report.model_copy(update={"sites": tuple(map(changed, report.sites))})


def test_combined_shares_rank_by_the_tokens_that_pass(routed):
    shares = [1.0, 0.7, 0.3, 0.0]
    evidence = routed | {"sensitivity": with_usage(routed["sensitivity"], shares.__getitem__)}
    plan = allocate("8k", AllocationSettings(strategy="combined"), **evidence)
    ranks = {expert: [] for expert in range(4)}
    for site in plan.sites:
        if site.routed:
            ranks[expert_index(site.name)].append(sum(site.ranks))
    means = [np.mean(ranks[expert]) for expert in range(4)]
    assert means == sorted(means, reverse=True)
    assert ranks[3] == [0] * len(ranks[3])  # who sees no token learns nothing
    assert all(site.ranks for site in plan.sites if not site.routed)
    assert plan.notes[-1].text.startswith("On mixture-of-experts models in our study, such plans beat uniform LoRA")
    asked = allocate("8k", AllocationSettings(strategy="combined", min_rank=1), **evidence)
    assert all(site.ranks for site in asked.sites)


def test_combined_must_know_who_is_routed_to(routed):
    silent = tuple(site.model_copy(update={"usage": ()}) for site in routed["sensitivity"].sites)
    evidence = routed | {"sensitivity": routed["sensitivity"].model_copy(update={"sites": silent})}
    with pytest.raises(InputError, match="the sensitivity report does not say how many tokens reach it"):
        allocate("20k", AllocationSettings(strategy="combined"), **evidence)


def test_the_prior_is_the_tempered_product_of_what_is_known_within_a_type():
    evidence = evidence_of(
        site_of("layers.0.q", alpha=2.0, tasks=(1.0,)), site_of("layers.1.q", alpha=8.0, tasks=(4.0,)),
        site_of("layers.0.experts.0.up", alpha=3.0, tasks=(1.0,), token_share=0.25),
        site_of("layers.0.experts.1.up", alpha=3.0, tasks=(1.0,), token_share=1.0),
    )  # fmt: skip
    demand = combined(evidence, CombinedSettings())
    # relative to the geometric means 4 and 2: (1/2 * 1/2)^(1/8) and (2 * 2)^(1/8); experts by the root of their share
    prior = np.array([4 ** (-1 / 8), 4 ** (1 / 8), 0.5, 1.0])
    np.testing.assert_allclose(demand.weights, prior / prior.mean(), rtol=1e-9)
    assert (demand.spares_routed, demand.plain, demand.utility, demand.granularity) == (True, True, "log1p", "module")


@pytest.mark.parametrize(("known", "missing"), [({"alpha": 2.0}, "sensitivity"), ({"tasks": (1.0,)}, "spectra")])
def test_both_kinds_of_evidence_are_needed(known, missing):
    with pytest.raises(InputError, match=f"strategy 'combined' needs `{missing}` with measured values"):
        combined(evidence_of(site_of("layers.0.q", **known)), CombinedSettings())
