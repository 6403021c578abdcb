"""Interrupted and repeated analyses end in the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spectra
from spectra import spectrum
from spectra.estimators.fits import FitStatus
from spectra.report import SiteSpectrum, Uncertainty
from spectra.settings import AnalysisSettings
from spectra.storage.journal import NOTHING, Journal, remove

ROOT = Path(__file__).parents[3]


def test_an_interrupted_analysis_solves_nothing_twice(minilm, spectra_report, tmp_path, monkeypatch):
    solved = []
    decompose = spectrum.spectrum_of

    def counting(matrix, **options):
        if len(solved) == 15 and "interrupt" in os.environ:
            raise KeyboardInterrupt
        solved.append(matrix.name)
        return decompose(matrix, **options)

    monkeypatch.setattr(spectrum, "spectrum_of", counting)
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


@pytest.mark.training
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


def site(name):
    """A report's entry, without anything but its name and its fit."""
    return SiteSpectrum(
        name=name, module=name, shape=(4, 3), alpha=2.0, x_min=1.0, n_tail=3, ks=0.1, sigma=0.2, status=FitStatus.OK,
        n_eigenvalues=3, n_cut=0, fits={}, metrics=None, density=None, uncertainty=Uncertainty(),
    )  # fmt: skip


def test_every_process_writes_its_own_and_reads_all(tmp_path):
    journals = [Journal(tmp_path / "journal", "purpose", index) for index in range(2)]
    assert [journal.read() for journal in journals] == [{}, {}]
    journals[0].add(site("a"), np.array([1.0, 2.0]))
    journals[1].add(site("b"), NOTHING)
    for journal in journals:
        found = journal.read()
        assert [entry.model_dump_json() for entry in (found["a"][0], found["b"][0])] == [
            entry.model_dump_json() for entry in (site("a"), site("b"))
        ]
        assert [kept.tolist() for _, kept in found.values()] == [[1.0, 2.0], NOTHING.tolist()]


def test_another_purpose_starts_over_and_leaves_other_processes_journals_alone(tmp_path):
    for index in range(2):
        journal = Journal(tmp_path / "journal", "old", index)
        journal.read()
        journal.add(site("a"), NOTHING)
    assert Journal(tmp_path / "journal", "new", 0).read() == {}
    assert (tmp_path / "journal.0").read_text() == '"new"\n'
    assert list(Journal(tmp_path / "journal", "old", 1).read()) == ["a"]


def test_without_a_path_nothing_is_remembered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, "purpose")
    journal.add(site("a"), NOTHING)
    assert journal.read() == {}
    assert list(tmp_path.iterdir()) == []


def test_journals_of_a_finished_analysis_are_removed_and_nothing_else(tmp_path):
    for name in ("journal.0", "journal.1", "journals.0", "journal"):
        (tmp_path / name).touch()
    remove(tmp_path / "journal")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "journals.0"]
