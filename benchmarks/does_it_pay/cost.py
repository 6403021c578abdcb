"""What a step costs under plans of different sizes and places: `plan train` on SmolLM2, one process a run, plan after plan.

    python benchmarks/does_it_pay/cost.py MODEL DATA.jsonl [--rounds 3] [--steps 8]

Every round trains all plans once, so a machine that slows down slows all of them. Printed are seconds a step and peak memory as
shares of rank 8 everywhere (median and range over rounds); the first step, which warms up, is left out by training twice as long
and taking the difference. The losses of the same plans are in results.csv.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from arms import RANK_1

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer import RunReport
from trainer.run_folder import REPORT

PLANS: dict[str, tuple[str, dict]] = {
    "uniform 8": ("rank 8", {}),
    "uniform 1": ("rank 1", {}),
    "random 0.25": (str(RANK_1 // 4), {"strategy": "random", "granularity": "module", "min_rank": 0}),
    "even 0.25": (str(RANK_1 // 4), {"granularity": "projection", "min_rank": 0}),
    "upper 0.25": (str(RANK_1 // 4), {"depth": 7 / 30, "granularity": "module", "min_rank": 0}),
    "random 0.0625": (str(RANK_1 // 16), {"strategy": "random", "granularity": "module", "min_rank": 0}),
}


def train(plan: Path, model: str, data: str, steps: int, out: Path) -> RunReport:
    """One run in a process of its own, so that its peak of memory is its own."""
    options = ["--max-steps", steps, "--batch-size", 16, "--max-length", 128, "--learning-rate", 2e-3, "-o", out]
    command = [sys.executable, "-m", "cli", "train", plan, "--model", model, "--data", data, *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return RunReport.load(out / REPORT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in PLANS}
    memory: dict[str, list[int]] = {name: [] for name in PLANS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(asked.rounds):
            for name, (budget, settings) in PLANS.items():
                made = AllocationSettings.model_validate({"strategy": "uniform", "max_experts": 1} | settings)
                plan = Path(folder) / f"{name}.json"
                planner.allocate(budget, made, model=open_checkpoint(asked.model)).save(plan)
                short, long = (
                    train(plan, asked.model, asked.data, steps, Path(folder) / f"{name}-{number}-{steps}")
                    for steps in (asked.steps, 2 * asked.steps)
                )
                times[name].append((long.seconds - short.seconds) / asked.steps)
                memory[name].append(long.peak_memory)
                print(
                    f"  round {number}, {name}: {times[name][-1]:.2f} s a step, {memory[name][-1] / 2**20:,.0f} MiB", flush=True
                )
    print("| plan | time a step | peak memory |\n|---|---|---|")
    for name in PLANS:
        share = [one / other for one, other in zip(times[name], times["uniform 8"], strict=True)]
        size = [one / other for one, other in zip(memory[name], memory["uniform 8"], strict=True)]
        spans = (f"{statistics.median(ratio):.2f} [{min(ratio):.2f}, {max(ratio):.2f}]" for ratio in (share, size))
        print(f"| {name} | " + " | ".join(spans) + " |")


if __name__ == "__main__":
    main()
