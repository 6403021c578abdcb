"""The study behind docs/choosing.md: plans of one size with paired seeds, through `trainer.compare`.

On fifteen tasks for MiniLM (tasks.py) and thirteen kinds of text for two small language models (language.py):

    python benchmarks/study/run.py shapes -o study/

Every stage is one line of STAGES. Runs are kept, so a stage that was interrupted, or given more seeds, goes on where it stopped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import language
import numpy as np
import pandas as pd
from beds import BEDS
from candidates import CANDIDATES
from rich.console import Console
from rich.table import Table
from scipy.stats import t
from tasks import CONFIRMATION, DEVELOPMENT, HELD_OUT

import planner
import planner.strategies
import spectra
from planner import SensitivityReport
from spectra import Checkpoint, SpectraReport, open_checkpoint
from trainer import load_sample
from trainer.compare import compare
from trainer.rehearsal import rehearse
from trainer.reports import EVALUATION, Evaluation

PROBED = 64
SPARSE = {"query-value", "attention", "mlp", "hot-experts", "random-some"}
SPARSE |= {"use", "use-half", "use-experts", "use-experts-half", "use-dense"}
planner.strategies.STRATEGIES.update(CANDIDATES)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Which plans are compared on which tasks."""

    tasks: tuple[str, ...]
    budgets: tuple[str, ...]
    entrants: tuple[str, ...]
    """Strategies; `NAME-mixture` lets a plan have several experts per module, else it is plain LoRA; `NAME-sparse` may leave
    modules out."""
    seeds: int
    bed: str = "minilm"
    controls: bool = False
    learning_rates: tuple[float, ...] = (2e-3,)
    rehearsed: int = 0
    """Steps of the probe's rehearsal."""
    baseline: str = "uniform"
    """The strategy of `uniform-lora`, with which all are compared; another where no rank is affordable everywhere."""


RATES = Stage(
    tasks=("corruption", "topic"), budgets=("rank 2",), entrants=("cheap",), seeds=1, learning_rates=(1e-3, 2e-3, 4e-3, 8e-3)
)
SHAPES = Stage(
    tasks=DEVELOPMENT,
    budgets=("rank 2",),
    entrants=("cheap", "attention", "query-value", "mlp", "falling", "combined"),
    seeds=2,
)
SECOND = Stage(
    tasks=("corruption", "follows", "indent"),
    budgets=("rank 2",),
    entrants=("cheap", "cheap-half", "falling", "cheap-evidence", "cheap-inverse"),
    seeds=3,
)
MIXTURES = Stage(
    tasks=("corruption", "follows", "indent"), budgets=("rank 4",), entrants=("uniform-mixture", "combined"), seeds=2
)
FINAL = Stage(
    tasks=HELD_OUT,
    budgets=("rank 2",),
    entrants=("uniform-mixture", "random", "alphalora-mixture", "lora-smoe-mixture", "query-value", "combined"),
    seeds=4,
)
OUTPUTS = Stage(tasks=("topic", "follows", "indent", "corruption"), budgets=("rank 2",), entrants=("outputs",), seeds=3)
CHECK = Stage(
    tasks=("role", "typo", "arguments", "syntax"),
    budgets=("rank 2",),
    entrants=("combined", "random", "lora-smoe-mixture"),
    seeds=3,
)
EXPERT_RATES = Stage(
    bed="language",
    tasks=("stubs",),
    budgets=("rank 1",),
    entrants=("use",),
    seeds=1,
    learning_rates=(2e-3, 6e-3, 2e-2),
)
EXPERTS = Stage(
    bed="language",
    tasks=language.DEVELOPMENT,
    budgets=("rank 1",),
    entrants=("use", "use-half", "use-experts", "use-dense", "hot-experts", "attention"),
    seeds=2,
    learning_rates=(2e-2,),
)
EXPERTS_HELD_OUT = Stage(
    bed="language",
    tasks=language.HELD_OUT,
    budgets=("rank 2",),
    entrants=("combined", "hot-experts", "dr-lora", "random", "lora-smoe", "uniform-mixture"),
    seeds=2,
    learning_rates=(2e-2,),
)
DENSE = Stage(
    bed="dense",
    tasks=language.DEVELOPMENT,
    budgets=("rank 2",),
    entrants=("combined", "mola"),
    seeds=2,
    learning_rates=(2e-2,),
    rehearsed=30,
)
DENSE_HELD_OUT = Stage(
    bed="dense",
    tasks=language.HELD_OUT,
    budgets=("rank 2",),
    entrants=("combined", "alphalora", "lora-smoe", "mola", "random", "uniform-mixture"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
CLASSIFIERS = Stage(
    tasks=DEVELOPMENT,
    budgets=("rank 2",),
    entrants=("combined", "tempered"),
    seeds=2,
    rehearsed=30,
)
REHEARSED = Stage(
    tasks=HELD_OUT,
    budgets=("rank 2",),
    entrants=("combined",),
    seeds=4,
    rehearsed=30,
)
CLASSIFIERS_AGAIN = Stage(
    tasks=CONFIRMATION,
    budgets=("rank 2",),
    entrants=("combined", "random", "lora-smoe-mixture"),
    seeds=3,
    rehearsed=30,
)
SCARCE = Stage(
    tasks=("role", "operator", "typo", "corruption", "indent", "arguments"),
    budgets=("18432",),
    entrants=("combined-sparse", "query-value", "random-some"),
    seeds=1,
    rehearsed=30,
    baseline="attention",
)
UPPER = Stage(
    bed="dense",
    tasks=language.DEVELOPMENT,
    budgets=("rank 2",),
    entrants=("upper-half", "combined-upper-half", "combined-upper-third"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
DENSE_AGAIN = Stage(
    bed="dense",
    tasks=language.HELD_OUT,
    budgets=("rank 2",),
    entrants=("combined", "combined-upper-half"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
UPPER_CLASSIFIERS = Stage(
    tasks=HELD_OUT,
    budgets=("rank 2",),
    entrants=("combined-upper-half",),
    seeds=2,
    rehearsed=30,
)
SIGNALS = Stage(
    bed="dense",
    tasks=language.DEVELOPMENT,
    budgets=("rank 2",),
    entrants=("alpha", "inverse-alpha", "gradient", "product", "by-layer", "by-projection", "combined"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
TEXTS = Stage(
    bed="dense",
    tasks=language.CONFIRMATION,
    budgets=("rank 2",),
    entrants=("combined", "half", "alphalora", "lora-smoe", "random", "uniform-mixture"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
LONGER = Stage(
    bed="longer",
    tasks=("translations", "sources", "frames"),
    budgets=("rank 2",),
    entrants=("combined",),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
EXPERTS_REHEARSED = Stage(
    bed="language",
    tasks=("tables", "cython", "licences"),
    budgets=("rank 2",),
    entrants=("combined", "prior"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
EXPERTS_TEXTS = Stage(
    bed="language",
    tasks=language.CONFIRMATION,
    budgets=("rank 2",),
    entrants=("combined", "lora-smoe", "dr-lora", "random", "uniform-mixture"),
    seeds=1,
    learning_rates=(2e-2,),
    rehearsed=30,
)
STAGES: Mapping[str, Stage] = {
    "rates": RATES,
    "shapes": SHAPES,
    "second": SECOND,
    "outputs": OUTPUTS,
    "mixtures": MIXTURES,
    "held-out": FINAL,
    "check": CHECK,
    "expert-rates": EXPERT_RATES,
    "experts": EXPERTS,
    "experts-held-out": EXPERTS_HELD_OUT,
    "dense": DENSE,
    "dense-held-out": DENSE_HELD_OUT,
    "classifiers": CLASSIFIERS,
    "rehearsed": REHEARSED,
    "classifiers-again": CLASSIFIERS_AGAIN,
    "scarce": SCARCE,
    "upper": UPPER,
    "dense-again": DENSE_AGAIN,
    "upper-classifiers": UPPER_CLASSIFIERS,
    "signals": SIGNALS,
    "texts": TEXTS,
    "longer": LONGER,
    "experts-rehearsed": EXPERTS_REHEARSED,
    "experts-texts": EXPERTS_TEXTS,
}


def make_plan(
    name: str, budget: str, checkpoint: Checkpoint, alphas: SpectraReport, gradients: SensitivityReport
) -> planner.Plan:
    """A strategy's plan; the experts' number is one unless the name says otherwise."""
    strategy = name.removesuffix("-mixture").removesuffix("-sparse")
    experts = 8 if name.endswith("-mixture") else 1
    options: dict[str, object] = {"min_rank": 0} if strategy in SPARSE or name.endswith("-sparse") else {}
    if strategy == "uniform":
        options["granularity"] = "module"  # as even as whole ranks allow, and as large as the others
    return planner.allocate(
        budget=budget, strategy=strategy, model=checkpoint, spectra=alphas, sensitivity=gradients, max_experts=experts, **options
    )


def run_stage(stage: Stage, output: Path, processes: int) -> pd.DataFrame:
    """Run what is missing of a stage; one row per run."""
    bed = BEDS[stage.bed]
    model = bed.model(output)
    checkpoint = open_checkpoint(model)
    alphas = spectra.analyze(model)
    rows = []
    for task in stage.tasks:
        data, test = bed.write(output / "tasks", task)
        sample = load_sample(checkpoint, data, samples=PROBED, max_length=bed.length, seed=0)
        gradients = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task=task)
        if stage.rehearsed:
            short = bed.settings(stage.learning_rates[0], max_steps=stage.rehearsed)
            gradients = gradients.rehearsed(*rehearse(checkpoint, data, short))
        for budget in stage.budgets:
            for rate in stage.learning_rates:
                folder = output / f"{stage.bed}-runs" / task / f"{budget} lr {rate:g}".replace(" ", "-")
                names = ("uniform-lora", *stage.entrants)
                for name in names:
                    plan = make_plan(name.replace("uniform-lora", stage.baseline), budget, checkpoint, alphas, gradients)
                    plan.save(folder / "made" / f"{name}.json")
                paths = [folder / "made" / f"{name}.json" for name in names]
                options = {"seeds": stage.seeds, "controls": stage.controls, "processes": processes}
                compare(
                    paths, model, [data], [test], folder, bed.settings(rate), **options, progress=partial(print, task, budget)
                )
                rows += collect(folder, names, stage.seeds, task=task, budget=budget, rate=rate)
    return pd.DataFrame(rows)


def collect(folder: Path, names: tuple[str, ...], seeds: int, **keys: object) -> list[dict[str, object]]:
    """Accuracy in per cent and loss of every run."""
    found = []
    for name in names:
        for seed in range(seeds):
            score = Evaluation.load(folder / "runs" / name / f"seed-{seed}" / EVALUATION).trained
            found.append({**keys, "plan": name, "seed": seed, "accuracy": 100 * score.accuracy, "loss": score.loss})
    return found


def summary(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Per plan the mean, and the paired difference to uniform with its 95% half-width, per task and pooled."""
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
        table = Table(*frame.columns, title=f"{stage}: {metric}, difference to uniform")
        for row in frame.itertuples(index=False):
            table.add_row(*map(str, row))
        Console(width=200).print(table)


if __name__ == "__main__":
    main()
