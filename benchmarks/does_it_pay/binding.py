"""Does the binding check name the smallest size that loses nothing? Beside a full sweep of sizes with other seeds.

    python benchmarks/does_it_pay/binding.py MODEL DATA OUT [TASK ...]

MODEL is an encoder, such as the MiniLM of `plan demo --classifier`; DATA is the folder of the BIG-bench tasks, each of which
becomes a classification of its prompts by their completions. The check asks about rank 4 with three seeds; the sweep runs every
size from a quarter of rank 1 to rank 16 with six other seeds, each size at its own learning rate. Finished runs are kept.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer import TrainSettings, compare
from trainer.study.arms import Candidate, uniform_of
from trainer.study.binding import check, told
from trainer.study.differences import Scores, measures_of
from trainer.study.rates import best, tuned
from trainer.study.report import BASELINE, Binding, TestFile
from trainer.study.runs import Job, Outcome, run_all
from trainer.study.study import Study, save_plans

TASKS = ("strategyqa", "vitaminc_fact_verification", "subtask046_miscellaenous_question_typing")
RANKS = (0.25, 1, 4, 16)
FIRST, SEEDS = 100, 6
SETTINGS = TrainSettings(max_steps=60, batch_size=16, max_length=64, learning_rate=2e-3)


def labelled(source: Path, target: Path) -> Path:
    """A task's rows as a classifier's."""
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": row["prompt"], "label": row["completion"].strip()}) for row in rows]
    target.write_text("\n".join(lines) + "\n")
    return target


def swept(model: str, files: tuple[Path, Path], out: Path, processes: int) -> Binding:
    """Every size with seeds of its own."""
    checkpoint = open_checkpoint(model)
    rank_1 = planner.allocate("rank 1", AllocationSettings(strategy="uniform"), model=checkpoint).parameters
    plans = {rank: uniform_of(round(rank * rank_1), checkpoint) for rank in RANKS}
    sizes = [Candidate(name=BASELINE if rank == 4 else f"rank-{rank:g}", plan=plan) for rank, plan in plans.items()]
    data, test = ((str(file),) for file in files)
    # As `plan compare` would: without a rate given each size has its own.
    study = Study(candidates=sizes, checkpoint=checkpoint, data=data, tests=test, output=out, settings=SETTINGS,
                  seeds=SEEDS, rates=None, processes=processes)  # fmt: skip

    def run(jobs: Sequence[Job]) -> list[tuple[Job, Outcome]]:
        save_plans(jobs)
        done = {job.key: outcome for job, outcome in run_all(list({job.key: job for job in jobs}.values()), processes)}
        return [(job, done[job.key]) for job in jobs]

    rates = {name: best(tried) for name, tried in tuned(study, sizes, run).items()}
    scores, digest = Scores(), study.digest(str(files[1]))
    jobs = [study.job(size, FIRST + seed, rates[size.name]) for size in sizes for seed in range(SEEDS)]
    for job, outcome in run(jobs):
        scores.add(job.arm, job.settings.seed, outcome)
        examples, measure = len(outcome.tests[digest].by_example["loss"]), measures_of(outcome, digest)[0]
    print({name: f"{rate:g}" for name, rate in rates.items()}, flush=True)
    file = TestFile(name=files[1].stem, sha256=digest, examples=examples, measure=measure)
    return check(scores, sizes, study.baseline, [file])


def main(model: str, data: Path, out: Path, tasks: tuple[str, ...]) -> None:
    """All tasks."""
    processes = int(os.environ.get("PROCESSES", "1"))
    for task in tasks:
        files = tuple(
            labelled(data / f"{task}.{part}.jsonl", out / "data" / f"{task}.{part}.jsonl") for part in ("train", "test")
        )
        folder = out / task
        plan = planner.allocate("rank 4", AllocationSettings(strategy="uniform"), model=open_checkpoint(model))
        plan.save(folder / f"{BASELINE}.json")
        random = AllocationSettings.model_validate({"strategy": "random", "max_experts": 1, "granularity": "module"})
        planner.allocate(str(plan.parameters), random, model=open_checkpoint(model)).save(folder / "other.json")
        report = compare([folder / f"{BASELINE}.json", folder / "other.json"], model, files[:1], files[1:], folder / "study",
                         SETTINGS, seeds=3, baselines=False, processes=processes)  # fmt: skip
        apart = swept(model, files, folder / "study", processes)
        for name, found in (("check", report.binding), ("sweep", apart)):
            assert found
            print(f"{task}, {name}: {told(found)} Smallest: {found.enough:,}.", flush=True)
            print("   ", "; ".join(f"{size.parameters:,} {size.mean:.4f} ({size.error:.4f})" for size in found.sizes), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), tuple(sys.argv[4:]) or TASKS)
