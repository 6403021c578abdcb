import csv
from pathlib import Path

import numpy as np
import pytest

from planner import AllocationSettings, allocate
from planner.strategies.alphalora import AlphaLoraSettings, alphalora
from spectra import InputError, load_spectra
from tests.planner.examples import evidence_of, site_of

# AlphaLoRA's rule (beta 2.5, 160 experts) on the published alphas of LLaMA-7B, layer 0 first; computed independently with numpy.
LLAMA_7B_COUNTS = [
    3, 3, 4, 3, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 7, 6, 7, 8, 6, 6, 7, 8, 8, 8, 7, 8, 8, 5
]  # fmt: skip
ALPHAS = Path(__file__).parents[2] / "data" / "llama-7b-alpha-peak.csv"


def test_alphalora_gives_a_layer_one_answer_and_light_tails_more(evidence, spectra_report):
    plan = allocate("4%", AllocationSettings(strategy="alphalora"), **evidence)
    layers = {layer: [site for site in plan.sites if f"layer.{layer}." in site.name] for layer in range(6)}
    assert all(len({site.ranks for site in sites}) == 1 for sites in layers.values())
    alphas = [np.mean([site.alpha for site in sites]) for sites in layers.values()]
    totals = [sum(sites[0].ranks) for sites in layers.values()]
    assert list(np.argsort(alphas)[[0, -1]]) == list(np.argsort(totals)[[0, -1]])


def test_alphalora_reproduces_the_published_llama_rule():
    plan = allocate("160 experts", AllocationSettings(strategy="alphalora"), spectra=load_spectra(ALPHAS))
    per_layer = [{len(site.ranks) for site in plan.sites if f".layers.{layer}." in site.name} for layer in range(32)]
    assert per_layer == [{count} for count in LLAMA_7B_COUNTS]
    assert (plan.budget.spent, plan.budget.unit) == (160, "experts")
    assert {rank for site in plan.sites for rank in site.ranks} == {8}
    assert plan.parameters == 160 * (624_640 + 35_584)  # no layer has a single expert, so all have routers


def test_the_alphas_under_test_are_the_published_ones():
    rows = list(csv.DictReader(ALPHAS.read_text().splitlines()))
    assert len(rows) == 224
    assert np.mean([float(row["alpha"]) for row in rows]) == pytest.approx(3.358, abs=5e-4)


EVIDENCE = evidence_of(
    site_of("layers.0.q", alpha=2.0), site_of("layers.0.up", alpha=4.0), site_of("layers.1.q", alpha=6.0),
    site_of("layers.1.up"),
)  # fmt: skip


def test_a_layers_weight_is_its_mean_alpha_to_the_power_of_beta():
    demand = alphalora(EVIDENCE, AlphaLoraSettings())
    assert demand.weights == (3.0**2.5, 3.0**2.5, 6.0**2.5, 6.0**2.5)
    assert (demand.granularity, demand.utility, demand.released_rounding) == ("layer", "log", False)
    assert alphalora(EVIDENCE, AlphaLoraSettings(beta=1.0, parity=True)).weights == (3.0, 3.0, 6.0, 6.0)
    assert alphalora(EVIDENCE, AlphaLoraSettings(parity=True)).released_rounding


def test_with_parity_counts_are_those_of_the_released_rounding(tmp_path):
    rows = [f"layers.{layer}.q,32,32,{alpha}" for layer, alpha in enumerate((2.0, 2.2, 2.6, 3.1, 3.3, 4.0))]
    (tmp_path / "alphas.csv").write_text("\n".join(["name,rows,cols,alpha", *rows]))
    counts = {}
    for parity in (False, True):
        settings = AllocationSettings(
            strategy={"name": "alphalora", "settings": {"parity": parity}}, **({} if parity else {"max_experts": 30})
        )
        plan = allocate("30 experts", settings, spectra=load_spectra(tmp_path / "alphas.csv"))
        counts[parity] = [len(site.ranks) for site in plan.sites]
    assert counts[True] == [3, 2, 4, 5, 6, 10]
    assert counts[False] == [2, 2, 4, 6, 6, 10]  # the exact shares are 1.84, 2.33, 3.54, 5.49, 6.42 and 10.39


def test_without_spectra_there_is_no_rule():
    with pytest.raises(InputError, match="strategy 'alphalora' needs `spectra` with measured values: make it with plan analyze"):
        alphalora(evidence_of(site_of("layers.0.q")), AlphaLoraSettings())


@pytest.mark.parametrize("beta", [0, -1, 101])
def test_other_exponents_are_refused(beta):
    with pytest.raises(InputError, match="strategy alphalora: beta: "):
        AllocationSettings.checked({"strategy": {"name": "alphalora", "settings": {"beta": beta}}}, "settings")


def test_an_orthogonal_matrix_moves_no_plan(tmp_path):
    """Its layer is planned by its other matrices, as if it were not there."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    import spectra
    from planner import AllocationSettings, allocate

    draws = np.random.default_rng(0)
    tensors = {
        f"layers.{layer}.{name}.weight": torch.from_numpy(0.1 * draws.standard_t(3, (64, 64))).float()
        for layer in range(4)
        for name in ("q_proj", "k_proj")
    }
    plans = []
    for name in ("orthogonal", "constant"):  # the second was always a named failure
        odd = torch.linalg.qr(torch.randn(64, 64))[0].contiguous() if name == "orthogonal" else torch.eye(64)
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors | {"layers.2.q_proj.weight": odd}, folder / "model.safetensors")
        settings = AllocationSettings(strategy="alphalora", expert_rank=4)
        plans.append(allocate("16 experts", settings, spectra=spectra.analyze(folder)))
    assert [site.ranks for site in plans[0].sites] == [site.ranks for site in plans[1].sites]


def test_another_estimator_than_the_authors_is_said_first(spectra_report):
    def planned(**given):
        return allocate("12 experts", AllocationSettings(strategy="alphalora", **given), spectra=spectra_report)

    assert planned().settings.estimator == "peak"
    assert "another estimator" not in [note.about for note in planned().notes]
    other = planned(estimator="clauset")
    assert other.notes[0].text == "Alphas are by 'clauset'; the authors of 'alphalora' take those by 'peak'."
    assert [site.alpha for site in other.sites] != [site.alpha for site in planned().sites]
    without = spectra_report.model_copy(
        update={
            "sites": tuple(
                site.model_copy(update={"fits": {name: fit for name, fit in site.fits.items() if name != "peak"}})
                for site in spectra_report.sites
            )
        }
    )
    with pytest.raises(InputError, match=r"takes alphas by 'peak', as its authors do; the report holds clauset, hill: run plan"):
        allocate("12 experts", AllocationSettings(strategy="alphalora"), spectra=without)


def test_parity_rounds_experts_and_no_parameters(spectra_report):
    asked = AllocationSettings(strategy={"name": "alphalora", "settings": {"parity": True}})
    with pytest.raises(InputError, match="`parity` rounds a number of experts as released; give the budget in experts"):
        allocate("4%", asked, spectra=spectra_report)


@pytest.mark.parametrize("given", [{"max_experts": 4}, {"min_rank": 2}, {"granularity": "model"}])
def test_what_parity_would_ignore_is_refused(given, spectra_report):
    asked = AllocationSettings(strategy={"name": "alphalora", "settings": {"parity": True}}, **given)
    with pytest.raises(InputError, match=f"`{next(iter(given))}` has no effect with `parity`"):
        allocate("12 experts", asked, spectra=spectra_report)
