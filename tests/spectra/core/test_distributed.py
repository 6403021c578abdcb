"""Work shared among processes: alone, as one of several without starting them, and started by torchrun."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spectra
from spectra import InputError
from spectra.core.distributed import Processes, decided_by_main, is_main_process

ROOT = Path(__file__).parents[3]


def test_alone_a_process_does_everything_itself(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes.join("cpu")
    assert alone == Processes(index=0, count=1, device="cpu", owned=False)
    assert alone.share("abcde") == list("abcde")
    assert alone.gather(found := {"a": 1}) is found
    assert is_main_process()
    assert decided_by_main("mine") == "mine"


def test_shares_are_disjoint_mixed_and_complete():
    shares = [Processes(index=index, count=3, device="cpu").share(range(8)) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_one_process_writes(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


@pytest.mark.training
def test_two_processes_under_torchrun_write_the_same_bytes(minilm, spectra_report, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "cli.py",
               "analyze", str(minilm), "-o", str(tmp_path / "s.json")]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "s.json").read_text() == spectra_report.to_json()


@pytest.mark.training
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


def test_a_missing_gpu_is_one_line(minilm):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="device 'cuda': this torch finds no CUDA device"):
        spectra.analyze(minilm, device="cuda")


def test_processes_that_read_the_journals_at_different_moments_leave_no_matrix_out(tiny_llama, tmp_path, monkeypatch):
    """The first process of two has finished some matrices before the second one reads: each keeps to its own share."""
    monkeypatch.setattr(Processes, "gather", lambda self, found: found)
    whole = {site.name for site in spectra.analyze(tiny_llama).sites}
    analysed = {}

    for index in range(2):
        monkeypatch.setattr(Processes, "join", classmethod(lambda cls, device, i=index: cls(index=i, count=2, device=device)))
        names = []
        with contextlib.suppress(KeyError):  # the first one's share is no whole report
            spectra.analyze(
                tiny_llama, journal=tmp_path / "journal", progress=lambda done, total, name, to=names: to.append(name)
            )
        analysed[index] = set(names)
    assert analysed[0] | analysed[1] == whole
    assert not analysed[0] & analysed[1]
