"""Growing ranks while training (DR-LoRA) beside training the plan it ends in, and beside static plans of the same size.

    python benchmarks/study/run.py experts-held-out -o study/
    python benchmarks/study/grown.py -o study/

On the mixture-of-experts language model, rank 2; static plans and their scores are those of the first command.
"""

from pathlib import Path

import click
import pandas as pd
from beds import BEDS
from run import runs_folder
from stages import STAGES

from trainer.study.jobs import Job, run_all, workers

STAGE = STAGES["experts-held-out"]
BED, (RATE,) = BEDS[STAGE.bed], STAGE.learning_rates
GROWN = {"uniform-grown": "uniform-lora", "dr-lora-grown": "dr-lora"}  # name: the plan it starts from


def job(output: Path, task: str, name: str, plan: Path, seed: int, *, grow: bool, processes: int) -> Job:
    """One run."""
    settings = BED.settings(RATE, seed=seed, grow=grow)
    return BED.job(output, (task,), name, plan, folder(output, task, name, seed), settings, processes)


def folder(output: Path, task: str, name: str, seed: int) -> Path:
    """Of a run."""
    return output / "grown" / task / name / f"seed-{seed}"


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--seeds", type=int, default=1)
@click.option("--processes", type=int, default=0)
def main(output: Path, seeds: int, processes: int) -> None:
    """Grow on every task, then train what was grown from the start; print losses beside the first command's."""
    processes = processes or workers()
    rows = []
    pairs = [(task, seed) for seed in range(seeds) for task in STAGE.tasks]
    growing, again = [], []
    for task, seed in pairs:
        for name, start in GROWN.items():
            plan = runs_folder(output, STAGE, task, RATE) / "made" / f"{start}.json"
            growing.append(job(output, task, name, plan, seed, grow=True, processes=processes))
            ended = folder(output, task, name, seed) / "plan.json"
            again.append(job(output, task, f"{name}-again", ended, seed, grow=False, processes=processes))
    for jobs in (growing, again):
        for one, evaluation in run_all(jobs, processes):
            assert evaluation is not None  # only trials of a sweep may diverge
            rows.append(
                {
                    "task": Path(one.folder).parts[-3],
                    "plan": one.candidate,
                    "seed": one.settings.seed,
                    "loss": evaluation.trained["loss"],
                }
            )
            print(*rows[-1].values(), flush=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(output / "grown.csv", index=False)
    print(frame.pivot_table(index="plan", columns="task", values="loss", margins=True).round(3).to_string())


if __name__ == "__main__":
    main()
