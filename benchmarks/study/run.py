"""The study behind docs/guide/choosing.md: plans of one size with paired seeds, through `trainer.compare`.

On fifteen tasks for MiniLM (tasks.py) and thirteen kinds of text for two small language models (language.py):

    python benchmarks/study/run.py shapes -o study/

Every stage is an entry of stages.py. Runs are kept, so a stage that was interrupted, or given more seeds, goes on where it
stopped.
"""

from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from beds import BEDS
from candidates import CANDIDATES
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from stages import STAGES, Stage

import planner
import planner.strategies
import spectra
from planner import AllocationSettings, SensitivityReport
from spectra import Checkpoint, SpectraReport, open_checkpoint
from trainer import load_sample
from trainer.attribution.trial_run import run_trial
from trainer.report import Evaluation
from trainer.run_folder import EVALUATION
from trainer.settings import DataSettings
from trainer.study.compare import compare

PROBED = 64
SPARSE = {"query-value", "attention", "mlp", "hot-experts", "random-some"}
SPARSE |= {"use", "use-half", "use-experts", "use-experts-half", "use-dense"}
planner.strategies.STRATEGIES.update(CANDIDATES)


def make_plan(
    name: str, budget: str, checkpoint: Checkpoint, alphas: SpectraReport, gradients: SensitivityReport
) -> planner.Plan:
    """A strategy's plan; the experts' number is one unless the name says otherwise."""
    strategy = name.removesuffix("-mixture").removesuffix("-sparse")
    experts = 8 if name.endswith("-mixture") else 1
    options: dict[str, object] = {"min_rank": 0} if strategy in SPARSE or name.endswith("-sparse") else {}
    if strategy == "uniform":
        options["granularity"] = "module"  # as even as whole ranks allow, and as large as the others
    settings = AllocationSettings.model_validate({"strategy": strategy, "max_experts": experts} | options)
    return planner.allocate(budget, settings, model=checkpoint, spectra=alphas, sensitivity=gradients)


def runs_folder(output: Path, stage: Stage, task: str, rate: float) -> Path:
    """Where a stage's runs on a task are kept."""
    return output / f"{stage.bed}-runs" / task / f"{stage.budget} lr {rate:g}".replace(" ", "-")


def run_stage(stage: Stage, output: Path, processes: int) -> pd.DataFrame:
    """Run what is missing of a stage; one row per run."""
    bed = BEDS[stage.bed]
    model = bed.model(output)
    checkpoint = open_checkpoint(model)
    alphas = spectra.analyze(model)
    rows = []
    for task in stage.tasks:
        data, test = bed.write(output / "tasks", task)
        sample = load_sample(checkpoint, data, samples=PROBED, settings=DataSettings(max_length=bed.length), seed=0)
        gradients = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task=task)
        if stage.with_trial_run:
            short = bed.settings(stage.learning_rates[0], max_steps=stage.with_trial_run)
            gradients = gradients.with_trial_run(*run_trial(checkpoint, data, short))
        for rate in stage.learning_rates:
            folder = runs_folder(output, stage, task, rate)
            names = ("uniform-lora", *stage.candidates)
            for name in names:
                strategy = name.replace("uniform-lora", stage.baseline)
                make_plan(strategy, stage.budget, checkpoint, alphas, gradients).save(folder / "made" / f"{name}.json")
            paths = [folder / "made" / f"{name}.json" for name in names]
            options = {"seeds": stage.seeds, "baselines": False, "processes": processes}
            progress = partial(_print, task)
            compare(paths, model, [data], [test], folder, bed.settings(rate), **options, progress=progress)
            rows += collect(folder, names, stage.seeds, task=task, budget=stage.budget, rate=rate)
    return pd.DataFrame(rows)


def _print(task: str, done: int, total: int | None = None, note: str = "") -> None:
    print(task, done, total, note, flush=True)


def collect(folder: Path, names: tuple[str, ...], seeds: int, **keys: object) -> list[dict[str, object]]:
    """Accuracy in per cent and loss of every run."""
    found = []
    for name in names:
        for seed in range(seeds):
            score = Evaluation.load(folder / "runs" / name / f"seed-{seed}" / EVALUATION).trained
            found.append(
                {**keys, "plan": name, "seed": seed, "accuracy": 100 * score.get("accuracy", np.nan), "loss": score["loss"]}
            )
    return found


def summary(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Per plan the mean, and the paired difference from uniform with its 95% half-width, per task and pooled."""
    keys = ["budget", "rate", "task", "seed"]
    wide = runs.pivot_table(index=keys, columns="plan", values=metric)
    delta = wide.sub(wide["uniform-lora"], axis=0)
    rows = []
    for (budget, rate), part in delta.groupby(["budget", "rate"]):
        for plan in part.columns:
            row: dict[str, object] = {"budget": budget, "rate": rate, "plan": plan}
            for task, of_task in [*part[plan].groupby("task"), ("all", part[plan])]:
                n = len(of_task)
                half = t.ppf(0.975, n - 1) * of_task.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
                level = wide.loc[of_task.index, plan].mean()
                row[str(task)] = f"{level:.3g} {of_task.mean():+.3f}+-{half:.3f}"
            rows.append(row)
    return pd.DataFrame(rows)


@click.command()
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--processes", type=int, default=0)
def main(stage: str, output: Path, processes: int) -> None:
    """Run a stage, print its tables and keep its runs as CSV."""
    runs = run_stage(STAGES[stage], output, processes)
    runs.to_csv(output / f"{stage}.csv", index=False)
    for metric in ("accuracy", "loss"):
        if runs[metric].isna().all():  # a language model has a loss only
            continue
        frame = summary(runs, metric)
        table = Table(*frame.columns, title=f"{stage}: {metric}, difference from uniform")
        for row in frame.itertuples(index=False):
            table.add_row(*map(str, row))
        Console(width=200).print(table)


if __name__ == "__main__":
    main()
