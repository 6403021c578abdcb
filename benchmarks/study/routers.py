"""One LoRA or a mixture of the same size, and which router: on single tasks and on a mixture of them.

    python benchmarks/study/routers.py -o study/

MiniLM as in run.py, rank 8 everywhere's parameters, routers counted. Runs are kept.
"""

from pathlib import Path

import click
import pandas as pd
from beds import BEDS

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer.study.jobs import Job, run_all, workers

BED, RATE, BUDGET = BEDS["minilm"], 2e-3, "331776"
TASKS = ("role", "typo", "operator")
CANDIDATES = {
    "lora": (1, "topk"),
    "topk": (4, "topk"),
    "sira": (4, "sira"),
    "dense": (4, "dense"),
}  # LoRA experts at most, router


def jobs(output: Path, seeds: int, processes: int) -> list[Job]:
    """Every task alone, and all in one."""
    model = BED.model(output)
    checkpoint = open_checkpoint(model)
    sets = {task: (task,) for task in TASKS} | {"mixture": TASKS}
    found = []
    for name, (experts, router) in CANDIDATES.items():
        settings = AllocationSettings(
            strategy="uniform", granularity="module", max_experts=experts, expert_rank=2 if experts > 1 else None
        )
        plan = planner.allocate(BUDGET, settings, model=checkpoint)
        path = output / "routers" / f"{name}.json"
        plan.save(path)
        for label, members in sets.items():
            for seed in range(seeds):
                how = BED.settings(RATE, max_steps=BED.steps * len(members), router=router, seed=seed)
                own = output / "routers" / label / name / f"seed-{seed}"
                found.append(BED.job(output, members, name, path, own, how, processes))
    return sorted(found, key=lambda job: job.settings.seed)


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--seeds", type=int, default=2)
@click.option("--processes", type=int, default=0)
def main(output: Path, seeds: int, processes: int) -> None:
    """Run what is missing; print mean accuracies."""
    processes = processes or workers()
    rows = []
    for job, evaluation in run_all(jobs(output, seeds, processes), processes):
        assert evaluation is not None  # only trials of a sweep may diverge
        for task in evaluation.tasks:
            trained = Path(job.folder).parts[-3]
            score = task.trained
            rows.append([trained, task.name, job.candidate, job.settings.seed, 100 * score["accuracy"], score["loss"]])
            print(*rows[-1], flush=True)
    frame = pd.DataFrame(rows, columns=["trained on", "task", "plan", "seed", "accuracy", "loss"])
    frame.to_csv(output / "routers.csv", index=False)
    print(frame.pivot_table(index="plan", columns=["trained on", "task"], values="accuracy").round(1).to_string())


if __name__ == "__main__":
    main()
