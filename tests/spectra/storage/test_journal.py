"""Interrupted, shared and repeated analyses end in the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import spectra
from spectra import InputError
from spectra import spectrum as site
from spectra.settings import AnalysisSettings

ROOT = Path(__file__).parents[2]


def test_an_interrupted_analysis_solves_nothing_twice(minilm, spectra_report, tmp_path, monkeypatch):
    solved = []
    decompose = site.spectrum_of

    def counting(matrix, **options):
        if len(solved) == 15 and "interrupt" in os.environ:
            raise KeyboardInterrupt
        solved.append(matrix.name)
        return decompose(matrix, **options)

    monkeypatch.setattr(site, "spectrum_of", counting)
    monkeypatch.setenv("interrupt", "yes")
    with pytest.raises(KeyboardInterrupt):
        spectra.analyze(minilm, journal=tmp_path / "journal")
    monkeypatch.delenv("interrupt")
    journalled = (tmp_path / "journal.0").read_text().count("\n") - 1
    assert journalled > 5
    solved.clear()
    again = spectra.analyze(minilm, journal=tmp_path / "journal")
    assert len(solved) == 40 - journalled
    assert again.to_json() == spectra_report.to_json()


def test_a_torn_last_line_is_solved_again(minilm, spectra_report, tmp_path):
    spectra.analyze(minilm, journal=tmp_path / "journal")
    journal = tmp_path / "journal.0"
    journal.write_bytes(journal.read_bytes()[:-200])
    assert spectra.analyze(minilm, journal=tmp_path / "journal").to_json() == spectra_report.to_json()


def test_a_journal_of_other_settings_is_not_used(minilm, spectra_report, tmp_path):
    spectra.analyze(minilm, AnalysisSettings(estimator="hill"), journal=tmp_path / "journal")
    assert spectra.analyze(minilm, journal=tmp_path / "journal").to_json() == spectra_report.to_json()


@pytest.mark.parametrize("delay", [1.2, 1.6])
def test_killed_and_run_again(delay, minilm, spectra_report, tmp_path):
    command = [sys.executable, "-c", "import cli; cli.main()", "analyze", str(minilm), "-o", str(tmp_path / "s.json")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "s.json").read_text() == spectra_report.to_json()
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_two_processes_under_torchrun_write_the_same_bytes(minilm, spectra_report, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "cli.py",
               "analyze", str(minilm), "-o", str(tmp_path / "s.json")]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "s.json").read_text() == spectra_report.to_json()


def test_a_callers_own_process_group_outlives_an_analysis(tiny_llama, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch.distributed as group, spectra\n"
        "group.init_process_group('gloo')\n"
        "spectra.analyze(sys.argv[1])\n"
        "values = [None, None]\n"
        "group.all_gather_object(values, group.get_rank())\n"
        "assert values == [0, 1], values\n"
        "group.barrier()\n"
        "group.destroy_process_group()\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
        str(tiny_llama),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def test_kept_eigenvalues_cost_no_new_decomposition(minilm, spectra_report, tmp_path, monkeypatch):
    kept = tmp_path / "eigenvalues.safetensors"
    spectra.analyze(minilm, eigenvalues=kept)
    stored = load_file(kept)
    assert stored.keys() == spectra_report.by_name().keys()
    assert all(stored[entry.name].size == entry.n_eigenvalues for entry in spectra_report.sites)
    monkeypatch.setattr(site, "spectrum_of", lambda *_args, **_options: pytest.fail("decomposed again"))
    assert spectra.analyze(minilm, eigenvalues=kept).to_json() == spectra_report.to_json()
    other = spectra.analyze(minilm, AnalysisSettings(estimator="hill"), eigenvalues=kept)
    assert other.sites[5].alpha == spectra_report.sites[5].fits["hill"].alpha


def test_kept_eigenvalues_of_another_model_are_refused(minilm, tiny_llama, tmp_path):
    kept = tmp_path / "eigenvalues.safetensors"
    spectra.analyze(tiny_llama, eigenvalues=kept)
    with pytest.raises(InputError, match="kept eigenvalues have weights"):
        spectra.analyze(minilm, eigenvalues=kept)


def test_other_weights_of_the_same_architecture_are_another_model(tiny_llama, tmp_path):
    import shutil

    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    tensors = load(other / "model.safetensors")
    save({name: tensor * 1.5 for name, tensor in tensors.items()}, other / "model.safetensors")
    one, two = spectra.open_checkpoint(tiny_llama), spectra.open_checkpoint(other)
    assert (one.fingerprint == two.fingerprint, one.weights == two.weights) == (True, False)
    spectra.analyze(tiny_llama, journal=tmp_path / "journal", eigenvalues=tmp_path / "kept")
    again = spectra.analyze(other, journal=tmp_path / "journal")
    assert again.to_json() == spectra.analyze(other).to_json()
    with pytest.raises(InputError, match="kept eigenvalues have weights"):
        spectra.analyze(other, eigenvalues=tmp_path / "kept")


def test_guarded_single_precision_stays_close(minilm, spectra_report):
    guarded = spectra.analyze(minilm, AnalysisSettings(precision="guarded"))
    for ours, exact in zip(guarded.sites, spectra_report.sites, strict=True):
        for name in ours.fits:
            assert ours.fits[name].alpha == pytest.approx(exact.fits[name].alpha, rel=1e-4, nan_ok=True)
            assert ours.fits[name].n_tail == exact.fits[name].n_tail


def test_everything_that_can_be_asked_for(tiny_llama):
    settings = AnalysisSettings(estimator="farms", bootstrap=20, subsamples=4, goodness=20, compare=True)
    report = spectra.analyze(tiny_llama, settings)
    assert report.to_json() == spectra.analyze(tiny_llama, settings).to_json()
    for entry in report.sites:
        if not np.isfinite(entry.alpha):
            continue
        assert entry.uncertainty.interval.low <= entry.uncertainty.interval.high
        assert entry.uncertainty.subsample_variation > 0
        assert 0 <= entry.uncertainty.iid_p <= 1
        assert len(entry.uncertainty.comparisons) == 3


def test_a_missing_gpu_is_one_line(minilm):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="device 'cuda': this torch finds no CUDA device"):
        spectra.analyze(minilm, device="cuda")


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu(minilm, spectra_report):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    report = spectra.analyze(minilm, device="cuda")
    for ours, theirs in zip(report.sites, spectra_report.sites, strict=True):
        assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-6)
