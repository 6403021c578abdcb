import math
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import spectra
from spectra import InputError, SpectraReport
from spectra.eigenvalues import eigenvalues
from spectra.estimators.fits import FitStatus


@pytest.fixture(scope="module")
def weightwatcher_table(minilm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import weightwatcher

        return weightwatcher.WeightWatcher().analyze(model=str(minilm)).set_index("longname")


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


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (30, 30), (1, 5)])
def test_eigenvalues_are_squared_singular_values(shape):
    W = np.random.default_rng(0).normal(size=shape)
    tall = W if shape[0] >= shape[1] else W.T
    found = eigenvalues([tall[:7], tall[7:]], min(shape))
    expected = np.linalg.svd(W, compute_uv=False) ** 2
    # a Gram matrix has absolute accuracy: a few ulp of the largest eigenvalue
    np.testing.assert_allclose(found[::-1], expected, rtol=0, atol=1e-14 * expected[0])


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
    spectra.analyze(minilm, progress=lambda done, total, name: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(1, 41)]
