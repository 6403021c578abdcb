"""The trial run's cost counted: uniform LoRA with as many steps more as a trial run and its measuring take.

    python benchmarks/study/cost.py dense -o study/      # 142 steps beside run.py dense-held-out
    python benchmarks/study/cost.py longer -o study/     # 442 steps beside run.py longer

Runs are kept as in run.py.
"""

from pathlib import Path

import click
from beds import BEDS

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer.attribution.attribution import POINTS
from trainer.attribution.trial_run import MEASURED
from trainer.study.jobs import Job, run_all, workers

RATE, BUDGET, TRIED = 2e-2, "rank 2", 30
TASKS = {"dense": ("cython", "licences", "graphs"), "longer": ("translations", "sources", "frames")}


def jobs(name: str, output: Path, seeds: int, processes: int) -> list[Job]:
    """One run per kind of text and seed."""
    bed = BEDS[name]
    path = output / "cost" / "uniform.json"
    model = open_checkpoint(bed.model(output))
    planner.allocate(BUDGET, AllocationSettings(strategy="uniform", granularity="module"), model=model).save(path)
    found = []
    for seed in range(seeds):
        settings = bed.settings(RATE, max_steps=bed.steps + TRIED + POINTS * MEASURED // bed.batch, seed=seed)
        for task in TASKS[name]:
            own = output / "cost" / name / task / f"seed-{seed}"
            found.append(bed.job(output, (task,), f"uniform-{settings.max_steps}", path, own, settings, processes))
    return found


@click.command()
@click.argument("bed", type=click.Choice(["dense", "longer"]))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--seeds", type=int, default=1)
@click.option("--processes", type=int, default=0)
def main(bed: str, output: Path, seeds: int, processes: int) -> None:
    """Run what is missing; print every loss."""
    processes = processes or workers()
    for job, evaluation in run_all(jobs(bed, output, seeds, processes), processes):
        assert evaluation is not None  # only trials of a sweep may diverge
        print(Path(job.folder).parent.name, job.candidate, job.settings.seed, f"{evaluation.trained['loss']:.4f}", flush=True)


if __name__ == "__main__":
    main()
