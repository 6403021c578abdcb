"""Runs of a study: each done once, in this process or in workers that end with it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectra import InputError
from tests.trainer.study.examples import QUICK, evaluation_of
from trainer import Evaluation
from trainer.run_folder import EVALUATION, WEIGHTS
from trainer.study.jobs import Job, run_all, threads, workers
from trainer.training.loop import DivergedError

ROOT = Path(__file__).parents[3]
STUDY = """
import os, signal, time
from trainer.study import jobs

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def wait(job):
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C reaches all of a terminal's processes; ending workers is the study's affair
    print(os.getpid(), flush=True)
    time.sleep(600)

jobs._run = wait

if __name__ == "__main__":
    list(jobs._in_workers(["one", "other"], 1))
"""


@pytest.fixture
def job(tiny_llama, lora_plan, sentences, tmp_path):
    lora_plan.save(tmp_path / "plan.json")
    return Job(
        candidate="mine", plan=str(tmp_path / "plan.json"), model=str(tiny_llama), data=(str(sentences),),
        tests=(str(sentences),), folder=str(tmp_path / "run"), settings=QUICK, threads=1,
    )  # fmt: skip


def test_runs_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [threads(processes) for processes in (1, 3, 8, 16)] == [8, 2, 1, 1]
    if not torch.cuda.is_available():
        assert workers() == 8


def test_one_run_per_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert workers() == 4


def test_what_is_finished_is_read_and_not_repeated(job):
    job = replace(job, plan="nowhere.json")  # repeating it would fail
    done = evaluation_of(text={"loss": 1.0})
    done.save(job.result)
    assert list(run_all([job], 1)) == list(run_all([job], 2)) == [(job, done)]


@pytest.mark.training
def test_a_run_is_trained_evaluated_and_kept(job):
    before = torch.get_num_threads()
    ((same, evaluation),) = run_all([job], 1)
    assert same is job
    assert torch.get_num_threads() == before
    assert [task.name for task in evaluation.tasks] == ["text"]
    assert evaluation.untrained == {}  # nobody compares it
    assert (Path(job.folder) / WEIGHTS).is_file()
    assert Evaluation.load(job.result) == Evaluation.load(Path(job.folder) / EVALUATION) == evaluation


@pytest.mark.training
def test_a_trial_that_diverges_is_an_answer_and_a_run_that_does_a_reason_to_stop(job):
    wild = replace(job, settings=QUICK.model_copy(update={"learning_rate": 1e30, "max_steps": 8}))
    assert list(run_all([replace(wild, of_sweep=True)], 1)) == [(replace(wild, of_sweep=True), None)]
    with pytest.raises(DivergedError, match="lower the learning rate"):
        list(run_all([wild], 1))


@pytest.mark.training
def test_workers_find_what_one_process_finds(job, tmp_path):
    two = [replace(job, folder=str(tmp_path / name)) for name in ("one", "other")]
    alone = {found.folder: evaluation for found, evaluation in run_all([replace(job, folder=str(tmp_path / "alone"))], 1)}
    together = {found.folder: evaluation for found, evaluation in run_all(two, 2)}
    assert together.keys() == {found.folder for found in two}
    assert all(evaluation == alone[str(tmp_path / "alone")] for evaluation in together.values())


def killed_once(job):
    """A worker's work: the first to do it is killed by the kernel."""
    mark = Path(job.folder)
    if not mark.exists():
        mark.mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluation_of(text={"loss": 1.0})


def killed_always(job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.training
def test_a_study_outlives_a_killed_worker(job, monkeypatch, caplog):
    monkeypatch.setattr("trainer.study.jobs._run", killed_once)
    ((same, evaluation),) = run_all([job], 2)
    assert same is job
    assert evaluation.trained == {"loss": 1.0}
    assert "a worker was killed, perhaps for want of memory; going on with 1 at a time" in caplog.text
    monkeypatch.setattr("trainer.study.jobs._run", killed_always)
    with pytest.raises(InputError, match="its process was killed, though it ran alone; is there memory for one run"):
        list(run_all([job], 2))


@pytest.mark.training
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_runs_end_with_a_study_that_was_killed_or_interrupted(sent, tmp_path):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as study:
        worker = int(study.stdout.readline())
        assert _runs(worker)
        study.send_signal(sent)
    until = time.monotonic() + 30
    while time.monotonic() < until and _runs(worker):
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    """Whether a process is there and no zombie that nobody has waited for yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")
