"""`plan analyze`."""

import json

from spectra import load_spectra


def test_analyze_prints_a_table_and_writes_a_report(plan_command, here):
    output = plan_command("analyze", "model", "-o", "again.json").output
    assert "alpha by layer and projection" in output
    assert "40 matrices analysed, 64 tensors skipped" in output
    assert (here / "again.json").read_text() == (here / "spectra.json").read_text()
    printed = json.loads(plan_command("analyze", "model", "-o", "again.json", "--json").stdout)
    assert printed == json.loads((here / "again.json").read_text())


def test_the_table_of_matrices_reads_back(plan_command, here):
    plan_command("analyze", "model", "-o", "again.json", "--csv", "alphas.csv", "--keep-eigenvalues", "kept.safetensors")
    alphas = load_spectra(here / "alphas.csv").alphas()
    assert alphas == load_spectra(here / "spectra.json").alphas()
    assert (here / "kept.safetensors").is_file()
    assert not list(here.glob(".again.json.journal*"))


def test_an_output_that_cannot_be_written_is_refused_before_the_work(plan_command, here, monkeypatch):
    monkeypatch.setattr("spectra.analyze", lambda *_args, **_options: 1 / 0)
    assert "model: cannot write: a folder" in plan_command("analyze", "model", "-o", "model", code=1).stderr
