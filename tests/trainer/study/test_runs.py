"""Runs of a study: each done once, by this process, by workers that end with it, or by another process."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectra import InputError
from spectra.core.locks import held
from tests.trainer.examples import write_rows
from tests.trainer.study.examples import QUICK, outcome_of
from trainer import evaluate
from trainer.run_folder import WEIGHTS
from trainer.study import runs
from trainer.study.runs import Job, Outcome, run_all, threads, workers

ROOT = Path(__file__).parents[3]
STUDY = """
import os, signal, time
from trainer.study import runs

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def wait(job):
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C reaches all of a terminal's processes; ending workers is the study's affair
    print(os.getpid(), flush=True)
    time.sleep(600)

runs._run = wait

if __name__ == "__main__":
    list(runs._in_workers(["one", "other"], 1))
"""


@pytest.fixture
def job(tiny_llama, lora_plan, sentences, tmp_path):
    lora_plan.save(tmp_path / "plan.json")
    return Job(
        arm="mine", plan=lora_plan, plan_file=str(tmp_path / "plan.json"), model=str(tiny_llama), data=(str(sentences),),
        tests={"digest": str(sentences)}, folder=str(tmp_path / "runs" / "mine.seed-0.abc"), settings=QUICK, threads=1,
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
    job = replace(job, plan_file="nowhere.json")  # repeating it would fail
    assert (job.key, job.kept) == ("abc", None)
    done = outcome_of({"digest": 1.0}, "loss")
    done.save(job.outcome)
    assert list(run_all([job], 1)) == list(run_all([job], 2)) == [(job, done)]
    assert replace(job, tests={"digest": "a", "another": "b"}).kept is None
    diverged = done.model_copy(update={"diverged": "the loss is not finite", "tests": {}})
    diverged.save(job.outcome)
    assert job.kept == diverged


@pytest.mark.training
def test_a_run_is_trained_scored_and_kept(job):
    before = torch.get_num_threads()
    ((same, outcome),) = run_all([job], 1)
    assert same is job
    assert torch.get_num_threads() == before
    evaluation = evaluate(job.folder, job.tests.values(), untrained=False, by_example=True, precision="fp32")
    assert outcome.tests["digest"].scores == evaluation.tasks[0].trained
    assert outcome.tests["digest"].by_example == evaluation.tasks[0].by_example
    assert (Path(job.folder) / WEIGHTS).is_file()
    assert Outcome.load(job.outcome) == outcome == job.kept
    assert outcome.seconds > 0


@pytest.mark.training
def test_another_test_file_is_scored_without_training_again(job, tmp_path):
    ((_, first),) = run_all([job], 1)
    trained = (Path(job.folder) / WEIGHTS).stat().st_mtime_ns
    more = write_rows(tmp_path / "more.jsonl", [{"text": "one more text"}, {"text": "and another"}])
    ((_, both),) = run_all([replace(job, tests={"more": str(more), **job.tests})], 1)
    assert set(both.tests) == {"digest", "more"}
    assert (both.tests["digest"], both.seconds) == (first.tests["digest"], first.seconds)
    assert len(both.tests["more"].by_example["loss"]) == 2
    assert (Path(job.folder) / WEIGHTS).stat().st_mtime_ns == trained


@pytest.mark.training
def test_a_run_that_diverges_is_an_outcome(job):
    wild = replace(job, settings=QUICK.model_copy(update={"learning_rate": 1e30, "max_steps": 8}))
    ((_, outcome),) = run_all([wild], 1)
    assert "lower the learning rate" in outcome.diverged
    assert outcome.tests == {}
    assert wild.kept == outcome


@pytest.mark.training
def test_workers_find_what_one_process_finds(job, tmp_path):
    two = [replace(job, folder=str(tmp_path / f"{name}.{name}")) for name in ("one", "other")]
    ((_, alone),) = run_all([replace(job, folder=str(tmp_path / "alone.alone"))], 1)
    together = {found.folder: outcome for found, outcome in run_all(two, 2)}
    assert together.keys() == {found.folder for found in two}
    assert all(outcome.tests == alone.tests for outcome in together.values())


def test_a_run_that_another_process_is_at_is_waited_for(job, monkeypatch):
    monkeypatch.setattr(runs, "WAIT", 0.05)
    monkeypatch.setattr(runs, "_done", lambda job: pytest.fail("done twice"))
    done = outcome_of({"digest": 1.0}, "loss")
    taken = threading.Event()

    def other():
        with held(Path(job.folder).with_name(job.key), "does this run"):
            taken.set()
            time.sleep(0.3)
            done.save(job.outcome)

    worker = threading.Thread(target=other)
    worker.start()
    taken.wait(10)
    assert list(run_all([job], 1)) == [(job, done)]
    worker.join()


def killed_once(job):
    """A worker's work: the first to do it is killed by the kernel."""
    mark = Path(job.folder).with_name("killed")
    if not mark.exists():
        mark.mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome_of({"digest": 1.0}, "loss")


def killed_always(job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.training
def test_a_study_outlives_a_killed_worker(job, monkeypatch, caplog):
    monkeypatch.setattr("trainer.study.runs._run", killed_once)
    two = [job, replace(job, folder=f"{job.folder}d")]
    found = list(run_all(two, 2))
    assert {one.folder for one, _ in found} == {one.folder for one in two}
    assert all(outcome.tests["digest"].scores["loss"] == pytest.approx(1.0) for _, outcome in found)
    assert "a worker was killed, perhaps for want of memory; going on with 1 at a time" in caplog.text
    monkeypatch.setattr("trainer.study.runs._run", killed_always)
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
