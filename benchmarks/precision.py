"""A training step in bf16 products beside one in single precision, which is what `--precision auto` chooses between.

    python benchmarks/precision.py [--rounds 3] [--threads 2]

Fine-tunes the demo's model with a uniform LoRA of rank 2 for a few steps, the two precisions in turn. Reported is how much
longer single precision takes, median and range over rounds. The last line says what `auto` takes on this machine.
"""

import statistics
import tempfile
import time
from pathlib import Path

import click
import torch

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer import TrainSettings, train
from trainer.base_model import has_bf16_units
from trainer.demo import classifier as demo

WARM, STEPS = 5, 25


def seconds(plan: planner.Plan, model: Path, data: Path, precision: str) -> float:
    """Median time of a step once a run is warm."""
    ticks: list[float] = []

    def tick(done: int, total: int | None = None, note: str = "") -> None:
        ticks.append(time.perf_counter())

    settings = TrainSettings.model_validate({"max_steps": STEPS, "max_length": 48, "precision": precision})
    with tempfile.TemporaryDirectory() as folder:
        train(plan, model, data, Path(folder) / "run", settings, progress=tick)
    return statistics.median(after - before for before, after in zip(ticks[WARM:-1], ticks[WARM + 1 :], strict=True))


@click.command()
@click.option("--rounds", type=int, default=3)
@click.option("--threads", type=int, default=0, help="0 leaves torch's choice.")
def main(rounds: int, threads: int) -> None:
    """Measure and print."""
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        model = demo.link_model(Path(folder))
        data, _ = demo.write_corpus(Path(folder))
        plan = planner.allocate("rank 2", AllocationSettings(strategy="uniform"), model=open_checkpoint(model))
        ratios = [seconds(plan, model, data, "fp32") / seconds(plan, model, data, "bf16") for _ in range(rounds)]
    print(f"single precision takes {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as long")
    print(f"auto takes {'bf16' if has_bf16_units() else 'single precision'} here")


if __name__ == "__main__":
    main()
