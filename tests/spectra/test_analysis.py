import math
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import spectra
from spectra import InputError, SpectraReport, analysis
from spectra.estimators.fits import FitStatus
from spectra.report import ModelInfo


@pytest.fixture(scope="module")
def weightwatcher_table(minilm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import weightwatcher

        return weightwatcher.WeightWatcher().analyze(model=str(minilm)).set_index("longname")


@pytest.mark.training
def test_alpha_equals_weightwatchers_on_every_layer_it_analyses(spectra_report, weightwatcher_table):
    ours = spectra_report.by_name()
    assert len(weightwatcher_table) == 39
    for name, theirs in weightwatcher_table.iterrows():
        assert ours[name].alpha == pytest.approx(theirs.alpha, rel=1e-9)
        assert ours[name].x_min == pytest.approx(theirs.xmin, rel=1e-9)
        assert ours[name].ks == pytest.approx(theirs.D, rel=1e-9)
        assert ours[name].n_tail == theirs.num_pl_spikes
        assert ours[name].metrics.lambda_max == pytest.approx(theirs.spectral_norm, rel=1e-9)
        assert ours[name].metrics.stable_rank == pytest.approx(theirs.stable_rank, rel=1e-9)


def test_every_tensor_is_analysed_or_listed_with_a_reason(spectra_report, minilm):
    named = [site.name + ".weight" for site in spectra_report.sites] + [tensor.name for tensor in spectra_report.skipped]
    assert sorted(named) == sorted(tensor.name for tensor in spectra.open_checkpoint(minilm).tensors)
    assert all(tensor.reason for tensor in spectra_report.skipped)


def test_the_report_survives_the_disk(spectra_report, tmp_path):
    spectra_report.save(tmp_path / "spectra.json")
    assert SpectraReport.load(tmp_path / "spectra.json").to_json() == spectra_report.to_json()


def test_two_runs_write_the_same_bytes(spectra_report, minilm):
    assert spectra.analyze(minilm).to_json() == spectra_report.to_json()


def test_damaged_and_odd_matrices_fail_alone(tmp_path):
    torch.manual_seed(0)
    good = torch.randn(64, 32)
    save_file(
        {
            "layers.0.a.weight": good,
            "layers.0.nan.weight": good.clone().index_fill_(0, torch.tensor(3), math.nan),
            "layers.0.zero.weight": torch.zeros(8, 8),
            "layers.0.rank_one.weight": torch.ones(16, 16),
            "layers.0.conv.weight": torch.randn(4, 3, 2, 2),
            "layers.0.empty.weight": torch.zeros(0, 4),
        },
        tmp_path / "model.safetensors",
    )
    report = spectra.analyze(tmp_path)
    status = {site.name.removeprefix("layers.0."): site.status for site in report.sites}
    assert status == {
        "a": FitStatus.OK,
        "nan": FitStatus.NOT_FINITE,
        "conv": FitStatus.SMALL_SAMPLE,
        "zero": FitStatus.TOO_FEW,
        "rank_one": FitStatus.TOO_FEW,
    }
    assert {tensor.name.split(".")[2] for tensor in report.skipped} == {"empty"}


def test_a_model_without_matrices_is_refused(tmp_path):
    save_file({"bias": torch.zeros(4)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no weights to analyse: none of its 1 tensors is a matrix"):
        spectra.analyze(tmp_path)


def test_progress_names_every_matrix(minilm):
    seen = []
    spectra.analyze(minilm, progress=lambda done, total, note: seen.append((done, total, note)))
    assert [entry[:2] for entry in seen] == [(done, 40) for done in range(1, 41)]
    assert len({note for _, _, note in seen}) == 40


def test_large_matrices_come_one_at_a_time_and_are_the_same(tiny_llama, monkeypatch):
    side_by_side = spectra.analyze(tiny_llama)
    monkeypatch.setattr(analysis, "SMALL", 0)
    for ours, theirs in zip(spectra.analyze(tiny_llama).sites, side_by_side.sites, strict=True):
        assert ours.name == theirs.name
        assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-9, nan_ok=True)


def test_a_model_is_identified_by_name_size_and_architecture(tiny_llama):
    checkpoint = spectra.open_checkpoint(tiny_llama)
    found = ModelInfo.of(checkpoint)
    assert (found.name, found.parameters, found.fingerprint) == ("tiny-llama", 17120, checkpoint.fingerprint)
    assert spectra.analyze(tiny_llama).model == found


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(minilm, spectra_report):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    report = spectra.analyze(minilm, device="cuda")
    for ours, theirs in zip(report.sites, spectra_report.sites, strict=True):
        assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-6)


def test_a_convolution_is_pooled_as_weightwatcher_does(tmp_path):
    kernel = torch.randn(16, 12, 3, 3)
    save_file({"layers.0.conv.weight": kernel}, tmp_path / "model.safetensors")
    (site,) = spectra.analyze(tmp_path).sites
    slices = kernel.double().numpy().reshape(16, 12, 9)
    pooled = np.concatenate([np.linalg.svd(slices[:, :, place], compute_uv=False) ** 2 / 2 for place in range(9)])
    assert site.n_eigenvalues == 108
    assert site.alpha == pytest.approx(spectra.fit(pooled).alpha, rel=1e-9)


def test_only_the_matrices_that_are_asked_for_are_analysed(tiny_llama, tmp_path):
    from spectra import AnalysisSettings, analyze

    kept = tmp_path / "kept.safetensors"
    whole = analyze(tiny_llama, eigenvalues=kept).by_name()
    part = analyze(tiny_llama, AnalysisSettings(modules="q_proj,down_proj"), eigenvalues=kept)
    assert {site.name.rpartition(".")[2] for site in part.sites} == {"q_proj", "down_proj"}
    assert all(site.alpha == whole[site.name].alpha for site in part.sites)
    left_out = {one.name for one in part.skipped if one.reason == "not asked for"}
    assert left_out | part.by_name().keys() == whole.keys()
    assert analyze(tiny_llama, eigenvalues=kept).by_name().keys() == whole.keys()  # nothing that was kept is lost
    with pytest.raises(InputError, match="`modules` 'x_proj': no such module"):
        analyze(tiny_llama, AnalysisSettings(modules="x_proj"))
