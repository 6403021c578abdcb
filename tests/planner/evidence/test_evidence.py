"""What is known of every site: joined by name, and what unknown means."""

import math

import numpy as np
import pytest

import spectra
from planner import AllocationSettings, allocate
from planner.evidence.evidence import LEAST_SHARE, gather
from planner.sensitivity.report import Estimate, TrialRun
from spectra import InputError, load_spectra, open_checkpoint
from tests.planner.examples import evidence_of, exactly, sensitivity_of, site_of


def test_a_failed_fit_neither_attracts_nor_repels(evidence, spectra_report, sensitivity):
    broken = [site.model_copy(update={"alpha": math.nan}) if "layer.2" in site.name else site for site in spectra_report.sites]
    report = spectra_report.model_copy(update={"sites": tuple(broken)})
    plan = allocate("1%", AllocationSettings(strategy="alphalora"), spectra=report)
    kept = [site.weight for site in plan.sites if "layer.2" in site.name]
    assert all(math.isfinite(weight) for weight in kept)
    assert min(site.weight for site in plan.sites) < kept[0] < max(site.weight for site in plan.sites)
    assert allocate("1%", spectra=report, sensitivity=sensitivity).parameters > 0


def test_evidence_of_another_model_is_refused(evidence, tiny_llama, spectra_report):
    other = spectra.analyze(tiny_llama)
    with pytest.raises(InputError, match="`spectra` and `sensitivity` are of different models"):
        allocate("1%", spectra=other, sensitivity=evidence["sensitivity"])
    fewer = spectra_report.model_copy(update={"sites": spectra_report.sites[:-2]})
    with pytest.raises(InputError, match=r"site 'encoder.layer.5.*' of the sensitivity report is no module of the model"):
        allocate("1%", spectra=fewer, sensitivity=evidence["sensitivity"])


def test_names_of_a_model_with_a_head_still_join(evidence, spectra_report):
    prefixed = [site.model_copy(update={"name": "bert." + site.name}) for site in spectra_report.sites]
    report = spectra_report.model_copy(update={"sites": tuple(prefixed)})
    one = allocate("1%", spectra=report, sensitivity=evidence["sensitivity"])
    other = allocate("1%", **evidence)
    assert [site.ranks for site in one.sites] == [site.ranks for site in other.sites]


def test_shapes_come_from_the_report_that_was_made_from_a_checkpoint(sensitivity, spectra_report, tmp_path):
    table = tmp_path / "table.csv"
    rows = [f"{site.name},{max(site.shape)},{min(site.shape)},{site.alpha}" for site in spectra_report.sites]
    table.write_text("\n".join(["longname,N,M,alpha", *rows]))  # weightwatcher's table forgets which side is the input
    plan = allocate("1%", spectra=load_spectra(table), sensitivity=sensitivity)
    assert plan.model == sensitivity.model
    assert {site.shape for site in plan.sites} == {(384, 384), (1536, 384), (384, 1536)}
    alone = allocate("1%", AllocationSettings(strategy="alphalora"), spectra=load_spectra(table))
    assert "may not say which side is the input" in alone.notes[1].text
    assert alone.notes[0].text.startswith("Alphas are from a table, by an estimator that is not known")
    live = sensitivity.model_copy(update={"model": sensitivity.model.model_copy(update={"fingerprint": None})})
    assert gather(spectra=load_spectra(table)).shapes_unsure
    assert not gather(sensitivity=live).shapes_unsure  # probed in memory: no fingerprint, and its shapes are known


def test_sites_are_the_projections_inside_layers_and_know_where_they_are(minilm):
    evidence = gather(checkpoint=open_checkpoint(minilm))
    assert len(evidence.sites) == 36
    site = evidence.sites[0]
    assert (site.name, site.layer, site.projection, site.expert) == (
        "encoder.layer.0.attention.output.dense", ("encoder.layer", 0), "attention.output.dense", None
    )  # fmt: skip
    assert site.rank_cost == 768
    assert math.isnan(site.alpha.mean)
    assert site.sensitivity == ()
    assert evidence.layers[("encoder.layer", 5)] == list(range(30, 36))


def test_the_parts_of_a_fused_module_count_by_their_mean(tiny_gpt2):
    report = spectra.analyze(tiny_gpt2)
    parts = [report.by_name()[f"transformer.h.0.attn.c_attn.{part}"] for part in "qkv"]
    (site,) = (site for site in gather(report).sites if site.name == "transformer.h.0.attn.c_attn")
    assert site.shape == (96, 32)
    assert site.alpha.mean == pytest.approx(np.mean([part.alpha for part in parts]))
    assert site.alpha.error == pytest.approx(np.sqrt(sum(part.sigma**2 for part in parts)) / 3)


def test_another_estimators_alphas_have_their_own_errors(spectra_report):
    name = "encoder.layer.0.attention.output.dense"
    fit = spectra_report.by_name()[name].fits["hill"]
    assert gather(spectra_report, estimator="hill").sites[0].alpha == Estimate(mean=fit.alpha, error=fit.sigma)


def test_the_error_of_resampling_is_preferred_to_the_fits_own(spectra_report):
    sites = [
        site.model_copy(update={"uncertainty": site.uncertainty.model_copy(update={"subsample_variation": 0.1})})
        for site in spectra_report.sites
    ]
    site = gather(spectra_report.model_copy(update={"sites": tuple(sites)})).sites[0]
    assert site.alpha.error == pytest.approx(0.1 * site.alpha.mean)


def test_a_shape_that_two_reports_disagree_on_is_named(spectra_report, sensitivity):
    first = sensitivity.sites[0].model_copy(update={"shape": (384, 385)})
    other = sensitivity.model_copy(update={"sites": (first, *sensitivity.sites[1:])})
    with pytest.raises(InputError, match=r"has shape \[384, 385\] in the sensitivity report, but \[384, 384\] in the model"):
        gather(spectra_report, other)


LAYERS = evidence_of(
    site_of("enc.0.q", alpha=2.0), site_of("enc.0.up", alpha=4.0), site_of("enc.1.q"), site_of("enc.2.q", alpha=9.0),
    site_of("dec.0.q", alpha=5.0),
)  # fmt: skip


def test_a_layers_alpha_is_its_mean_and_one_without_fits_has_that_of_all():
    assert LAYERS.layer_alphas() == [3.0, 3.0, 5.0, 9.0, 5.0]


@pytest.mark.parametrize(
    ("depth", "below"),
    [(1.0, [False] * 5), (2 / 3, [True, True, False, False, False]), (1 / 3, [True, True, True, False, False]),
     (0.01, [True, True, True, False, False])],
)  # fmt: skip
def test_every_stack_keeps_its_own_upper_share_and_at_least_one_layer(depth, below):
    assert LAYERS.below(depth) == below


def test_evidence_is_compared_within_its_type_and_averaged_over_tasks():
    evidence = evidence_of(
        site_of("l.0.q", alpha=2.0, tasks=(1.0, 8.0)), site_of("l.1.q", alpha=8.0, tasks=(4.0, 2.0)),
        site_of("l.0.up", alpha=3.0, tasks=(9.0, 1.0))
    )  # fmt: skip
    np.testing.assert_allclose(evidence.relative_alpha(), [0.5, 2.0, 1.0])
    # over tasks: 1/2 and 2 for one, 2 and 1/2 for the other
    np.testing.assert_allclose(evidence.relative_sensitivity(), [1.0, 1.0, 1.0])
    assert evidence.sensitivities().tolist() == [[1.0, 8.0], [4.0, 2.0], [9.0, 1.0]]


def test_every_token_passes_what_is_no_routed_expert():
    evidence = evidence_of(
        site_of("l.0.q"), site_of("l.0.experts.0.up", token_share=0.3), site_of("l.0.experts.1.up", token_share=0.0)
    )
    assert evidence.token_shares().tolist() == [1.0, 0.3, LEAST_SHARE]
    with pytest.raises(
        InputError, match=r"site 'l.0.experts.0.up': the sensitivity report does not say how many tokens reach it"
    ):
        evidence_of(site_of("l.0.experts.0.up")).token_shares()


def test_loss_reductions_are_per_parameter_of_an_adapter():
    evidence = evidence_of(site_of("l.0.q", shape=(6, 4), loss_reduction=(Estimate(mean=20.0, error=5.0),)))
    assert [task.tolist() for task in evidence.loss_reductions()] == [[[2.0, 0.5]]]
    assert evidence_of(site_of("l.0.q")).loss_reductions() == []


def test_weights_are_the_prior_without_a_trial_run_and_the_mean_over_those_there_are():
    prior = np.array([1.0, 3.0])
    sites = [site_of(f"l.{layer}.q", shape=(1, 1)) for layer in range(2)]
    np.testing.assert_allclose(evidence_of(*sites).weights(prior), [0.5, 1.5])
    measured = [
        site_of(f"l.{layer}.q", shape=(1, 1), loss_reduction=values) for layer, values in enumerate([(3.0, 1.0), (1.0, 3.0)])
    ]
    np.testing.assert_allclose(evidence_of(*measured).weights(np.ones(2), trust=1.0), [1.0, 1.0])
    np.testing.assert_allclose(evidence_of(measured[0], measured[1]).weights(prior, trust=0.0), [0.5, 1.5])


@pytest.mark.parametrize(
    ("site", "what", "message"),
    [
        (site_of("l.0.q"), "spectra", "strategy 'mine' needs `spectra` with measured values: make it with plan analyze"),
        (site_of("l.0.q"), "sensitivity", "strategy 'mine' needs `sensitivity` with measured values: make it with plan probe"),
        (site_of("l.0.q", tasks=(0.0,)), "sensitivity", "strategy 'mine': every gradient in the sensitivity report is zero"),
    ],
)
def test_what_a_strategy_lives_on_is_required_by_name(site, what, message):
    with pytest.raises(InputError, match=message):
        evidence_of(site).require(what, "mine")
    evidence_of(site_of("l.0.q", alpha=1.0, tasks=(exactly(1.0),))).require(what, "mine")


def test_effective_ranks_stand_over_their_types_mean_and_are_averaged_over_tasks():
    evidence = evidence_of(
        site_of("l.0.q", effective_rank=(2.0, 9.0)), site_of("l.1.q", effective_rank=(6.0, 3.0)),
        site_of("l.0.up", effective_rank=(40.0, math.nan)), site_of("l.1.up", effective_rank=(60.0, 7.0)),
    )  # fmt: skip
    # over tasks: 1/2 and 3/2, 3/2 and 1/2; 4/5 and nothing, 6/5 and 2
    np.testing.assert_allclose(evidence.relative_effective_rank(), [1.0, 1.0, 0.4, 1.6])
    assert evidence_of(site_of("l.0.q", effective_rank=(math.nan,))).relative_effective_rank().tolist() == [0.0]


def test_a_site_without_an_effective_rank_is_named():
    evidence = evidence_of(site_of("l.0.q", effective_rank=(2.0,)), site_of("l.0.experts.0.up"))
    with pytest.raises(
        InputError,
        match=r"site 'l.0.experts.0.up': its gradient's effective rank was not measured; plan probe measures it with"
        r" `effective_rank`, of linear modules, not of routed experts",
    ):
        evidence.relative_effective_rank()


@pytest.mark.parametrize(("gap", "incomplete"), [(0.3, {"task": 0.3}), (0.04, {}), (math.nan, {})])
def test_trial_runs_that_missed_too_much_are_known(gap, incomplete):
    report = sensitivity_of({"layers.0.q": [1.0]})
    reduced = Estimate(mean=1.0, error=0.1)
    run = TrialRun(rank=2, steps=30, batch_size=8, learning_rate=1e-3, examples=64, loss_reduction=reduced, gap=gap)
    assert gather(sensitivity=report.with_trial_run(run, {"layers.0.q": reduced})).incomplete == incomplete
    assert gather(sensitivity=report).incomplete == {}


def test_effective_ranks_are_gathered_with_the_gradients(sensitivity):
    evidence = gather(sensitivity=sensitivity)
    assert [site.effective_rank for site in evidence.sites] == [site.effective_rank for site in sensitivity.sites]
    assert all(1 <= rank <= 384 for site in evidence.sites for rank in site.effective_rank)
