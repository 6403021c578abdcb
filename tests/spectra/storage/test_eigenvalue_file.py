"""Eigenvalues kept on disk, and whose they are."""

import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import spectra
from spectra import AnalysisSettings, InputError, open_checkpoint, spectrum
from spectra.storage.eigenvalue_file import load_eigenvalues, save_eigenvalues


def test_kept_eigenvalues_cost_no_new_decomposition(minilm, spectra_report, tmp_path, monkeypatch):
    kept = tmp_path / "eigenvalues.safetensors"
    spectra.analyze(minilm, eigenvalues=kept)
    stored = load_file(kept)
    assert stored.keys() == spectra_report.by_name().keys()
    assert all(stored[entry.name].size == entry.n_eigenvalues for entry in spectra_report.sites)
    monkeypatch.setattr(spectrum, "spectrum_of", lambda *_args, **_options: pytest.fail("decomposed again"))
    assert spectra.analyze(minilm, eigenvalues=kept).to_json() == spectra_report.to_json()
    other = spectra.analyze(minilm, AnalysisSettings(estimator="hill"), eigenvalues=kept)
    assert other.sites[5].alpha == spectra_report.sites[5].fits["hill"].alpha


def test_kept_eigenvalues_of_another_model_are_refused(minilm, tiny_llama, tmp_path):
    kept = tmp_path / "eigenvalues.safetensors"
    spectra.analyze(tiny_llama, eigenvalues=kept)
    with pytest.raises(InputError, match=r"kept eigenvalues have weights"):
        spectra.analyze(minilm, eigenvalues=kept)


def test_other_weights_of_the_same_architecture_are_another_model(tiny_llama, tmp_path):
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
    with pytest.raises(InputError, match=r"kept eigenvalues have weights"):
        spectra.analyze(other, eigenvalues=tmp_path / "kept")


def test_a_file_says_whose_eigenvalues_it_holds_and_how_exact_they_are(tiny_llama, tmp_path):
    checkpoint, exact = open_checkpoint(tiny_llama), AnalysisSettings()
    assert load_eigenvalues(tmp_path / "kept", checkpoint, exact) == {}
    save_eigenvalues(tmp_path / "kept", checkpoint, exact, {"b": np.arange(6.0)[::2], "a": np.ones(2)})
    found = load_eigenvalues(tmp_path / "kept", checkpoint, exact)
    assert {name: values.tolist() for name, values in found.items()} == {"a": [1.0, 1.0], "b": [0.0, 2.0, 4.0]}
    with safe_open(tmp_path / "kept", framework="np") as stored:
        assert stored.metadata() == {"weights": checkpoint.digest, "precision": "exact", "content": "eigenvalues of W^T W"}
    with pytest.raises(InputError, match="kept eigenvalues have precision 'exact', not 'guarded'; choose another file"):
        load_eigenvalues(tmp_path / "kept", checkpoint, AnalysisSettings(precision="guarded"))


def test_an_unreadable_file_is_named(tiny_llama, tmp_path):
    (tmp_path / "kept").write_bytes(b"nothing")
    with pytest.raises(InputError, match="kept: not a readable safetensors file"):
        load_eigenvalues(tmp_path / "kept", open_checkpoint(tiny_llama), AnalysisSettings())


def test_eigenvalues_of_weights_that_changed_anywhere_are_refused(tiny_llama, tmp_path):
    """Also where neither the first nor the middle row of a tensor is touched."""
    import shutil

    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    save_eigenvalues(tmp_path / "kept", open_checkpoint(folder), AnalysisSettings(), {"a": np.ones(2)})
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"kept eigenvalues have weights .*; choose another file"):
        load_eigenvalues(tmp_path / "kept", open_checkpoint(folder), AnalysisSettings())
