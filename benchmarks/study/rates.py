"""Learning rate, alpha and warm-up for a language model: a grid over tasks and ranks, from which the defaults are chosen.

    python benchmarks/study/rates.py MODEL TASKS [--output rates.csv]

MODEL is SmolLM2-135M-Instruct; TASKS a folder of `NAME.train.jsonl` and `NAME.test.jsonl` (BIG-bench). Every run is uniform
LoRA on all linear modules, 80 steps of 16 examples, scored by the loss per example on the first 200 held-out rows. First the
rates of a grid by factors of two at two ranks, then alpha and warm-up beside the best rate at rank 8. As many runs at a time as
cores, each on one thread; runs that the output holds already are not repeated.
"""

import argparse
import csv
import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

TASKS = ("fact_checker-fever", "social_iqa", "subtask033_winogrande_answer_generation", "subtask038_qasc_combined_fact")
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
RANKS = (2, 16)
BATCH, HELD_OUT = 16, 200
SHORT = 40  # steps beside which alpha and warm-up are tried


class Run(NamedTuple):
    """One run; its fields are the first columns of the output."""

    task: str
    rank: int
    rate: float
    steps: int = 80
    alpha: float = 4.0
    warmup: float = 0.1
    ratio: float = 1.0
    seed: int = 0


def rates() -> Iterator[Run]:
    """The grid of learning rates."""
    for rate, task, rank in itertools.product(RATES, TASKS, RANKS):
        yield Run(task, rank, rate)


def others(rate: float) -> Iterator[Run]:
    """Alpha and warm-up beside the best rate."""
    for task in TASKS:
        yield Run(task, 8, rate, SHORT)
        for alpha in (2.0, 8.0):
            yield Run(task, 8, rate, SHORT, alpha)
        for warmup in (0.0, 0.2):
            yield Run(task, 8, rate, SHORT, warmup=warmup)


def loss_of(run: Run, model: str, tasks: str) -> float:
    """Train and score."""
    import torch

    import planner
    import trainer
    from spectra import InputError, open_checkpoint
    from trainer.quiet import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    plan = planner.allocate(f"rank {run.rank}", planner.AllocationSettings(strategy="uniform"), model=open_checkpoint(model))
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.jsonl"
        lines = (Path(tasks) / f"{run.task}.test.jsonl").read_text().splitlines(keepends=True)
        held.write_text("".join(lines[:HELD_OUT]))
        settings = trainer.TrainSettings(
            max_steps=run.steps, batch_size=BATCH, learning_rate=run.rate, alpha=run.alpha, warmup=run.warmup, seed=run.seed
        )
        try:
            trainer.train(plan, model, Path(tasks) / f"{run.task}.train.jsonl", Path(folder) / "run", settings)
        except InputError:  # diverged
            return float("inf")
        return trainer.evaluate(Path(folder) / "run", held, untrained=False).trained["loss"]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("tasks")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("rates.csv"))
    parser.add_argument("--best", type=float, help="rate beside which alpha and warm-up are tried; by default the grid is run")
    options = parser.parse_args()
    done = set()
    if options.output.exists():
        with options.output.open() as file:
            done = {tuple(row[:-1]) for row in csv.reader(file)}
    else:
        options.output.write_text(",".join([*Run._fields, "loss"]) + "\n")
    todo = [run for run in (others(options.best) if options.best else rates()) if tuple(map(str, run)) not in done]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(loss_of, run, options.model, options.tasks): run for run in todo}
        for future, run in futures.items():
            with options.output.open("a") as file:
                file.write(",".join([*map(str, run), f"{future.result():.5f}"]) + "\n")
            print(*run, f"{future.result():.4f}", flush=True)


if __name__ == "__main__":
    main()
