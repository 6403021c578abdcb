"""The published choices of AlphaLoRA, LoRA-SMoE and SiRA one at a time, on a real language model.

    python benchmarks/study/papers.py MODEL TASKS -o papers/ [--seeds 2] [--processes 5] [--minutes 8]

MODEL is SmolLM2-135M-Instruct; TASKS a folder of `NAME.train.jsonl` and `NAME.test.jsonl` (BIG-bench). Every plan has as many
parameters as uniform LoRA of rank 10, routers counted, which buys four experts of rank 2 for every module. Every run is 150 steps
of 16 examples at the rate that is best for this model, where none is said. Its score is the loss per token of the completion,
a mean over the first 300 held-out rows. Tasks and choices alternate within a seed, so that an interrupted study has whole blocks.
Runs that `papers.csv` holds already are not repeated, nor are reports; a run that fails is named and left out.
"""

import csv
import math
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
from scipy.stats import t

import planner
import spectra
from planner import AllocationSettings, SensitivityReport
from spectra import SpectraReport, open_checkpoint
from trainer import ProbeSettings, TrainSettings
from trainer.quiet import quiet_libraries

TASKS = ("subtask038_qasc_combined_fact", "social_iqa", "subtask033_winogrande_answer_generation")
BUDGET, BATCH, LENGTH, RATE, PUBLISHED_RATE = "3052800", 16, 96, 2e-3, 3e-4
PROBED, HELD_OUT, WARM = 64, 300, 3  # examples of a probe, rows that are scored, steps that are not timed
CONTROL = "uniform mixture"
MIXTURE: dict[str, Any] = {"strategy": "uniform", "expert_rank": 2, "max_experts": 4}
SMOE: dict[str, Any] = {"strategy": {"name": "lora-smoe", "settings": {"top_percent": 60}}, "expert_rank": 2}
PLANS: dict[str, dict[str, Any]] = {
    "lora": {"strategy": "uniform", "max_experts": 1},
    "mixture": MIXTURE,
    "top-1": MIXTURE | {"top_k": 1},
    "smoe": SMOE,
    "smoe-attention": SMOE | {"modules": "attention"},
} | {name: {"strategy": "alphalora", "estimator": name, "expert_rank": 2} for name in ("peak", "clauset", "hill")}


def sira(**settings: Any) -> dict[str, Any]:
    """The router with these settings of its own, else capacity 1.25 and a dropout of 0.1."""
    return {"router": {"name": "sira", "settings": settings}}


CHOICES: dict[str, tuple[str, dict[str, Any]]] = {  # plan, and what is trained otherwise
    CONTROL: ("mixture", {}),
    "uniform LoRA": ("lora", {}),
    "alphalora, peak": ("peak", {}),
    "alphalora, clauset": ("clauset", {}),
    "alphalora, hill": ("hill", {}),
    "lora-smoe": ("smoe", {}),
    "lora-smoe, attention": ("smoe-attention", {}),
    "sira": ("mixture", sira()),
    "sira, renormalise": ("mixture", sira(renormalise=True)),
    "sira, balance loss": ("mixture", sira() | {"balance_loss": 0.01}),
    "topk, balance loss": ("mixture", {"balance_loss": 0.01}),
    "top-1": ("top-1", {}),
    "alphalora, peak at 3e-4": ("peak", {"learning_rate": PUBLISHED_RATE}),
}


class Run(NamedTuple):
    """One run; its fields are the first columns of the output."""

    choice: str
    task: str
    seed: int


class Score(NamedTuple):
    """What came of it; its fields are the other columns."""

    loss: float
    parameters: int
    steps: int
    seconds_per_step: float
    peak_memory: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What all runs share."""

    model: Path
    tasks: Path
    output: Path
    steps: int
    rows: int
    until: float

    def data(self, task: str) -> Path:
        """The examples of a task."""
        return self.tasks / f"{task}.train.jsonl"

    def held(self, task: str) -> Path:
        """The rows of a task that are scored."""
        return self.output / f"{task}.held.jsonl"

    def plan(self, name: str) -> Path:
        """One of the plans."""
        return self.output / f"{name}.plan.json"


def device() -> str:
    """Where reports are made; runs choose alike."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare(study: Study) -> None:
    """Write the held-out rows, both reports, and all plans."""
    from trainer.probing import measure

    study.output.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        lines = (study.tasks / f"{task}.test.jsonl").read_text().splitlines(keepends=True)
        study.held(task).write_text("".join(lines[: study.rows]))
    alphas, gradients = study.output / "spectra.json", study.output / "sensitivity.json"
    if not alphas.exists():
        spectra.analyze(study.model, device=device()).save(alphas)
    if not gradients.exists():
        settings = ProbeSettings(samples=PROBED, max_length=LENGTH, trial_steps=0)
        measure(open_checkpoint(study.model), [study.data(task) for task in TASKS], settings, device=device()).save(gradients)
    known = {"spectra": SpectraReport.load(alphas), "sensitivity": SensitivityReport.load(gradients)}
    for name, settings in PLANS.items():
        plan = planner.allocate(BUDGET, AllocationSettings.model_validate(settings), **known)
        plan.save(study.plan(name))
        counts = [len(site.ranks) for site in plan.sites if site.ranks]
        print(
            f"{name}: {plan.parameters:,} parameters, {min(counts)} to {max(counts)} experts on {len(counts)} modules", flush=True
        )


def score(run: Run, study: Study) -> Score | None:
    """Train and score, or do nothing if it is too late."""
    if time.time() > study.until:
        return None
    import torch

    import trainer

    quiet_libraries()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    name, others = CHOICES[run.choice]
    shared = {"max_steps": study.steps, "batch_size": BATCH, "max_length": LENGTH, "learning_rate": RATE, "evaluations": 1}
    settings = TrainSettings.model_validate(shared | {"seed": run.seed} | others)
    plan, ticks, began = planner.Plan.load(study.plan(name)), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = trainer.train(
            plan, study.model, study.data(run.task), Path(folder) / "run", settings, evaluation=study.held(run.task),
            progress=lambda *_: ticks.append(time.perf_counter()),
        )  # fmt: skip
    took = np.diff(ticks)
    step, all_of_it = float(np.median(took[WARM:] if len(took) > WARM else took)), time.perf_counter() - began
    return Score(report.evaluations[-1].loss, plan.parameters, report.steps, step, report.peak_memory, all_of_it)


def run_all(runs: Sequence[Run], study: Study, processes: int, results: Path) -> None:
    """Run them in this order, and note each as soon as it is done."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # of the processes that start now
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(score, run, study): run for run in runs}
        for future in as_completed(running):
            run, error = running[future], future.exception()
            if error is not None:
                print(*run, f"failed: {type(error).__name__}: {error}", flush=True)
            elif (found := future.result()) is not None:
                with results.open("a", newline="") as file:
                    csv.writer(file).writerow([*run, *found])
                print(*run, f"loss {found.loss:.4f}, {found.seconds_per_step:.3f} s a step, {found.seconds:.0f} s", flush=True)


def show(results: Path) -> None:
    """Mean losses, and paired differences from the control with 95% intervals over the runs."""
    frame = pd.read_csv(results).set_index(["task", "seed", "choice"])["loss"].unstack()
    order = [choice for choice in CHOICES if choice in frame]
    if CONTROL not in order:
        return  # too few runs yet
    print(frame.groupby(level="task").mean().T.reindex(order).round(4).to_string())
    for choice in order[1:]:
        delta = (frame[choice] - frame[CONTROL]).dropna()
        n = len(delta)
        half = t.ppf(0.975, n - 1) * delta.std() / math.sqrt(n) if n > 1 else math.nan
        print(f"{choice}: {delta.mean():+.4f} +- {half:.4f} over {n} runs, worse in {(delta > 0).sum()}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("tasks", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default="papers")
@click.option("--seeds", type=int, default=2)
@click.option("--processes", type=int, default=1)
@click.option("--minutes", type=float, default=math.inf, help="after which no run begins")
@click.option("--steps", type=int, default=150)
@click.option("--rows", type=int, default=HELD_OUT)
@click.option("--only", type=click.Choice(TASKS), multiple=True, help="a task; by default all")
@click.option("--choice", "wanted", type=click.Choice(list(CHOICES)), multiple=True, help="a choice; by default all")
def main(
    model: Path, tasks: Path, output: Path, seeds: int, processes: int, minutes: float, steps: int, rows: int,
    only: tuple[str, ...], wanted: tuple[str, ...],
) -> None:  # fmt: skip
    """Run what is missing; print losses and differences."""
    quiet_libraries()
    until = time.time() + 60 * minutes
    study = Study(model=model, tasks=tasks, output=output, steps=steps, rows=rows, until=until)
    prepare(study)
    results, done = output / "papers.csv", set()
    if results.exists():
        with results.open(newline="") as file:
            done = {tuple(row[: len(Run._fields)]) for row in csv.reader(file)}
    else:
        results.write_text(",".join([*Run._fields, *Score._fields]) + "\n")
    asked = [Run(choice, task, seed) for seed in range(seeds) for task in only or TASKS for choice in wanted or CHOICES]
    run_all([run for run in asked if tuple(map(str, run)) not in done], study, processes, results)
    show(results)


if __name__ == "__main__":
    main()
