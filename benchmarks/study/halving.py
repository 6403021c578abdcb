"""Would successive halving have found the best plan, and at what cost? Read off the runs of a stage, which share their batches.

    python benchmarks/study/run.py texts -o study/
    python benchmarks/study/halving.py texts -o study/

All plans start; after a quarter of the steps the better half by training loss goes on, after half of them the better half of
these, until one is left (Jamieson and Talwalkar, 2016). Nothing is trained here: a run that was stopped is one whose later
steps are not looked at, because every run has the same schedule and, with the same seed, the same batches.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd
from beds import BEDS
from run import runs_folder
from stages import STAGES, Stage

from trainer.report import Evaluation, RunReport
from trainer.run_folder import EVALUATION, REPORT

RUNGS = (0.25, 0.5)
"""Shares of the steps after which half of the plans stop."""


def halve(losses: pd.DataFrame) -> tuple[str, int]:
    """The plan that is left, and the steps that all plans took together.

    Args:
        losses: training loss by step (rows) and plan (columns); each row is of the same batches.
    """
    steps, spent, before, left = int(losses.index[-1]), 0, 0, list(losses)
    for rung in (*RUNGS, 1.0):
        until = round(rung * steps)
        spent += len(left) * (until - before)
        recent = losses.loc[before + 1 : until, left].mean().sort_values(kind="stable")
        left, before = list(recent.index[: max(1, len(left) // 2)]), until
    return left[0], spent


def read(output: Path, stage: Stage, task: str, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """Training losses by step and plan, and every plan's loss on the test set."""
    folder = runs_folder(output, stage, task, stage.learning_rates[0]) / "runs"
    curves, scores = {}, {}
    for name in ("uniform-lora", *stage.candidates):
        run = folder / name / f"seed-{seed}"
        curves[name] = {point.step: point.loss for point in RunReport.load(run / REPORT).curve}
        scores[name] = Evaluation.load(run / EVALUATION).trained["loss"]
    return pd.DataFrame(curves).sort_index(), pd.Series(scores)


@click.command()
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
def main(stage: str, output: Path) -> None:
    """Print per task what halving would have taken, beside uniform and the best of all."""
    chosen = STAGES[stage]
    rows = []
    for task in chosen.tasks:
        for seed in range(chosen.seeds):
            losses, scores = read(output, chosen, task, seed)
            plan, spent = halve(losses)
            delta = scores - scores["uniform-lora"]
            rank = scores.corr(losses.loc[: losses.index[-1] // 4].mean(), method="spearman")
            rows.append([task, seed, plan, delta[plan], delta.idxmin(), delta.min(), round(rank, 2), spent])
    columns = ["task", "seed", "taken", "its difference", "best", "its difference ", "rank correlation at a quarter", "steps"]
    print(pd.DataFrame(rows, columns=columns).round(4).to_string(index=False))
    print("mean difference", np.round(np.mean([row[3] for row in rows]), 4), "with", BEDS[chosen.bed].steps, "steps for uniform")


if __name__ == "__main__":
    main()
