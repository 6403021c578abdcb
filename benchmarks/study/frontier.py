"""How small a plan may be at uniform's quality: rules at shrinking budgets on the small language models.

    python benchmarks/study/frontier.py language -o study/

Plans of unequal size are what `plan compare` refuses, so the runs are put together here. Runs are kept as in run.py.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import language
import numpy as np
import pandas as pd
from beds import BEDS
from run import PROBED, make_plan

import planner
import spectra
from spectra import open_checkpoint
from trainer import load_sample
from trainer.attribution.trial_run import run_trial
from trainer.settings import DataSettings
from trainer.study.jobs import Job, run_all, workers

RATE = 2e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Plans of growing size on one bed."""

    tasks: tuple[str, ...]
    ranks: tuple[int, ...]
    """Of uniform."""
    others: tuple[tuple[str, str], ...]
    """Strategy and budget."""
    with_trial_run: int = 0


FRONTIERS = {
    "language": Frontier(
        tasks=language.HELD_OUT,
        ranks=(1, 2, 4),
        others=(
            *(("combined", budget) for budget in ("rank 2", "rank 1", "77824", "38912", "19456")),
            ("attention", "19456"),
        ),
    ),
    "dense": Frontier(
        tasks=("translations", "sources", "frames"),
        ranks=(1, 2, 4),
        others=tuple(("combined", str(budget)) for budget in (25440, 30528, 40704, 50880, 61056)),
        with_trial_run=30,
    ),
}


def jobs(name: str, output: Path, task: str, seeds: int, processes: int) -> list[tuple[Job, int]]:
    """A task's runs, seed by seed, each with its plan's size."""
    bed, frontier = BEDS[name], FRONTIERS[name]
    checkpoint, alphas = open_checkpoint(bed.model(output)), spectra.analyze(bed.model(output))
    data, _ = bed.write(output / "tasks", task)
    sample = load_sample(checkpoint, data, samples=PROBED, settings=DataSettings(max_length=bed.length), seed=0)
    gradients = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task=task)
    if frontier.with_trial_run:
        gradients = gradients.with_trial_run(*run_trial(checkpoint, data, bed.settings(RATE, max_steps=frontier.with_trial_run)))
    found = []
    folder = output / "frontier" / name / task
    for rank in frontier.ranks:
        make_plan("combined", f"match rank {rank}", checkpoint, alphas, gradients).save(folder / f"worth-{rank}.json")
    for strategy, budget in (*(("uniform", f"rank {rank}") for rank in frontier.ranks), *frontier.others):
        candidate = f"{strategy} {budget}".replace(" ", "-")
        path = folder / f"{candidate}.json"
        plan = make_plan(strategy, budget, checkpoint, alphas, gradients)
        plan.save(path)
        for seed in range(seeds):
            own = folder / "runs" / candidate / f"seed-{seed}"
            job = bed.job(output, (task,), candidate, path, own, bed.settings(RATE, seed=seed), processes)
            found.append((job, plan.parameters))
    return sorted(found, key=lambda pair: pair[0].settings.seed)


def worth(name: str, output: Path, task: str) -> dict[str, float]:
    """The shares that `--budget "worth rank N"` asks for, of the plans that `jobs` has made."""
    sizes = {
        rank: [
            planner.Plan.load(output / "frontier" / name / task / file).parameters
            for file in (f"worth-{rank}.json", f"uniform-rank-{rank}.json")
        ]
        for rank in FRONTIERS[name].ranks
    }
    return {f"uniform-rank-{rank}": round(asked / uniform, 2) for rank, (asked, uniform) in sizes.items()}


def needed(losses: pd.DataFrame) -> dict[str, float]:
    """Uniform plan -> the share of its parameters at which `combined` has its loss, between runs on a log scale.

    Args:
        losses: of one task; a rank that `combined` did not reach gets the share of its largest plan, which is then too small.
    """
    means = losses.groupby(["plan", "parameters"])["loss"].mean().reset_index()
    ours = means[means["plan"].str.startswith("combined")].sort_values("parameters")
    found = {}
    for row in means[means["plan"].str.startswith("uniform")].itertuples():
        size = np.interp(-row.loss, -ours["loss"], np.log(ours["parameters"]))
        found[row.plan] = round(float(np.exp(size)) / row.parameters, 2)
    return found


@click.command()
@click.argument("bed", type=click.Choice(list(FRONTIERS)))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--seeds", type=int, default=2)
@click.option("--processes", type=int, default=0)
def main(bed: str, output: Path, seeds: int, processes: int) -> None:
    """Run what is missing; print the mean loss of every plan on every task."""
    processes = processes or workers()
    rows, asked = [], {}
    for task in FRONTIERS[bed].tasks:
        made = jobs(bed, output, task, seeds, processes)
        sizes = {job.folder: size for job, size in made}
        asked[task] = worth(bed, output, task)
        for job, evaluation in run_all([job for job, _ in made], processes):
            assert evaluation is not None  # only trials of a sweep may diverge
            loss = evaluation.trained["loss"]
            rows.append(
                {"task": task, "plan": job.candidate, "parameters": sizes[job.folder], "seed": job.settings.seed, "loss": loss}
            )
            print(*rows[-1].values(), flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(output / f"frontier-{bed}.csv", index=False)
    print(frame.pivot_table(index=["parameters", "plan"], columns="task", values="loss", margins=True).round(3).to_string())
    for task, losses in frame.groupby("task"):
        print(task, "needs", needed(losses), "asks for", asked[task])


if __name__ == "__main__":
    main()
