"""The runs that a study takes: paired by seed, each in a folder of its own."""

import os
from itertools import groupby
from pathlib import Path

import pytest

from spectra import open_checkpoint
from tests.trainer.study.examples import QUICK
from trainer.study.study import SWEEP_SEED, Study


@pytest.fixture
def study(tiny_llama, lora_plan):
    return Study(
        candidates={"mine": lora_plan, "uniform-lora": lora_plan}, checkpoint=open_checkpoint(tiny_llama), data=("a", "b"),
        tests=("c",), output=Path("study"), settings=QUICK, seeds=3, rates=(1e-2, 1e-3), processes=2,
    )  # fmt: skip


def test_every_candidate_runs_with_every_seed_and_a_seed_is_finished_first(study):
    jobs = list(study.jobs({"mine": 0.5}))
    assert [(job.settings.seed, job.candidate) for job in jobs] == [
        (seed, name) for seed in range(3) for name in ("mine", "uniform-lora")
    ]
    for _, pair in groupby(jobs, key=lambda job: job.settings.seed):
        one, other = (job.settings.model_copy(update={"learning_rate": 0.0}) for job in pair)
        assert one == other  # head, order of the data and schedule are paired
    assert {job.candidate: job.settings.learning_rate for job in jobs} == {"mine": 0.5, "uniform-lora": QUICK.learning_rate}


def test_a_run_knows_its_files(study, tiny_llama):
    job = next(study.jobs({}))
    assert (job.folder, job.plan) == ("study/runs/mine/seed-0", "study/plans/mine.json")
    assert (job.model, job.data, job.tests, job.of_sweep) == (str(tiny_llama), ("a", "b"), ("c",), False)
    assert job.result == Path("study/runs/mine/seed-0/study-evaluation.json")
    assert job.threads == max(1, os.cpu_count() // 2)


def test_trials_try_every_rate_with_a_seed_that_is_not_reported(study):
    trials = list(study.trials([(Path("a-train"), Path("a-held")), (Path("b-train"), Path("b-held"))]))
    assert [(job.candidate, job.settings.learning_rate) for job in trials] == [
        (name, rate) for name in ("mine", "uniform-lora") for rate in (1e-2, 1e-3)
    ]
    assert {job.settings.seed for job in trials} == {SWEEP_SEED}
    assert {(job.data, job.tests, job.of_sweep) for job in trials} == {(("a-train", "b-train"), ("a-held", "b-held"), True)}
    assert trials[0].folder == "study/sweep/mine/lr-0.01"
    assert len({job.folder for job in [*trials, *study.jobs({})]}) == study.total == 10
