"""One process at a time in a place, a killed one no longer, and nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spectra import InputError
from spectra.core.locks import held

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from spectra.core.locks import held
with held(sys.argv[1], "works here"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "run"."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_which_one_is_there(holder, tmp_path):
    (tmp_path / "link").symlink_to("run")
    for name in ("run", "link"):  # one place under two names
        with (
            pytest.raises(InputError, match=rf"{name}: process {holder.pid} on \S+ works there; wait for it to end"),
            held(tmp_path / name, "works there"),
        ):
            pass
    with held(tmp_path / "other", "works there"):
        pass


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".run.lock").exists()
    with held(tmp_path / "run", "works there"):
        assert str(os.getpid()) in (tmp_path / ".run.lock").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_behind(tmp_path, error):
    with pytest.raises(error), held(tmp_path / "run", "works there"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file/run", "loop", "a" * 300):
        with pytest.raises(InputError, match="cannot write"), held(tmp_path / name, "works there"):
            pass


def test_what_a_killed_process_was_writing_goes_and_a_journal_stays(tmp_path):
    (tmp_path / "run" / "deep").mkdir(parents=True)
    partial = [tmp_path / ".run.123", tmp_path / "run" / ".run.json.45", tmp_path / "run" / "deep" / ".plan.json.6"]
    kept = [tmp_path / ".run.journal.0", tmp_path / ".other.json.7", tmp_path / "run" / ".hidden", tmp_path / "run" / "a.1"]
    for path in (*partial, *kept):
        path.touch()
    with held(tmp_path / "run", "works there"):
        assert not any(path.exists() for path in partial)
        assert all(path.exists() for path in kept)
