"""The runs that a study takes: paired by seed, known by their content."""

import os
from pathlib import Path

import pytest

from spectra import open_checkpoint
from tests.trainer.examples import uniform, write_rows
from tests.trainer.study.examples import QUICK
from trainer.study.arms import Candidate
from trainer.study.study import Study, adapters, save_plans


@pytest.fixture
def study(tiny_llama, lora_plan, tmp_path):
    files = [str(write_rows(tmp_path / f"{name}.jsonl", [{"text": f"a text of {name}"}])) for name in "abc"]
    other = uniform(tiny_llama, "rank 5", max_experts=1)
    return Study(
        candidates=[Candidate(name="mine", plan=lora_plan), Candidate(name="uniform-lora", plan=other)],
        checkpoint=open_checkpoint(tiny_llama), data=tuple(files[:2]), tests=tuple(files[2:]),
        output=tmp_path / "study", settings=QUICK, seeds=3, processes=2,
    )  # fmt: skip


def test_runs_of_one_seed_have_all_but_the_plan_and_the_rate_in_common(study):
    one, other = (study.job(candidate, 2, rate) for candidate, rate in zip(study.candidates, (0.5, 0.1), strict=True))
    assert (one.settings.seed, one.settings.rate, other.settings.rate) == (2, 0.5, 0.1)
    assert one.settings.model_copy(update={"learning_rate": 0.1}) == other.settings
    assert study.baseline is study.candidates[1]
    assert one.threads == max(1, os.cpu_count() // 2)


def test_a_run_is_known_by_what_makes_it_and_not_by_its_name(study, lora_plan, tmp_path):
    mine = study.candidates[0]
    job = study.job(mine, 0, 0.5)
    assert Path(job.folder).name == f"mine.seed-0.{job.key}"
    renamed = study.job(Candidate(name="other", plan=lora_plan.model_copy(update={"version": "0.0.1"})), 0, 0.5)
    assert renamed.key == job.key
    others = [
        study.job(mine, 1, 0.5), study.job(mine, 0, 0.25), study.job(study.candidates[1], 0, 0.5),
        study.job(Candidate(name="mine", plan=lora_plan, changes={"alpha": 2.0}), 0, 0.5),
    ]  # fmt: skip
    assert len({one.key for one in (job, *others)}) == 5
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes(Path(study.data[0]).read_bytes())
    values = {name: getattr(study, name) for name in study.__dataclass_fields__} | {"digests": {}}
    assert Study(**values | {"data": (str(moved), study.data[1])}).job(mine, 0, 0.5).key == job.key
    write_rows(moved, [{"text": "other"}])
    values["digests"] = {}
    assert Study(**values | {"data": (str(moved), study.data[1])}).job(mine, 0, 0.5).key != job.key
    # A finished run is found under whatever name it was made.
    Path(job.folder).mkdir(parents=True)
    assert study.job(Candidate(name="other", plan=lora_plan), 0, 0.5).folder == job.folder


def test_settings_that_mean_nothing_to_a_plan_do_not_make_another_run(study):
    values = {name: getattr(study, name) for name in study.__dataclass_fields__}
    routed = Study(**values | {"settings": QUICK.model_copy(update={"balance_loss": 0.5})})
    assert routed.job(study.candidates[0], 0, 0.5).key == study.job(study.candidates[0], 0, 0.5).key


def test_an_arm_may_draw_another_plan_for_every_seed(study, tiny_llama):
    plans = [uniform(tiny_llama, f"rank {rank}", max_experts=1) for rank in (1, 2, 3)]
    candidate = Candidate(name="random", plan=plans[0], drawn=lambda seed: plans[1 + seed])
    jobs = [study.job(candidate, seed, 0.5) for seed in (0, 1)]
    assert [adapters(job.plan) for job in jobs] == [adapters(plan) for plan in plans[1:]]
    assert adapters(study.trial(candidate, 0.5, [(Path(study.data[0]), Path(study.data[1]))]).plan) == adapters(plans[0])
    save_plans(jobs)
    assert all(Path(job.plan_file).is_file() for job in jobs)
    assert len(list(Path(jobs[0].plan_file).parent.iterdir())) == 2
