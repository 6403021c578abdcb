"""The question of where-capacity-goes.md and how-small.md on other tasks, seeds or machines, by the commands that users have.

    python benchmarks/does_it_pay/repeat.py MODEL DATA OUT [--task T ...] [--seeds 2] [--steps 150] [--quick]

For each task `plan probe`, plans of a quarter of rank 1 (`combined`, and the same upside down), and `plan compare`: uniform LoRA
at a sixteenth, a quarter and once rank 1, random plans with a draw for every seed, the plans. All train at the rate that won most
searches in the kept runs. Finished runs are kept. Two cores take about an hour and a half a task; `--quick` says little, sooner.
"""

import argparse
from pathlib import Path

from arms import RANK_1, TASKS  # importing it adds the controls to the table of strategies

import planner
import spectra
import trainer
from planner import AllocationSettings
from trainer import ProbeSettings, TrainSettings
from trainer.probing import measure
from trainer.study.verdict import verdict

RATE = 4e-3


def main() -> None:
    """Go through the tasks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", action="append", help="a task of DATA; repeat for several")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--quick", action="store_true", help="40 steps, no sizes and no control")
    asked = parser.parse_args()
    report = asked.out / "spectra.json"
    if not report.exists():
        spectra.analyze(asked.model).save(report)
    for task in asked.task or TASKS:
        study(task, asked, spectra.SpectraReport.load(report))


def study(task: str, asked: argparse.Namespace, report: spectra.SpectraReport) -> None:
    """One task."""
    train, test = (asked.data / f"{task}.{part}.jsonl" for part in ("train", "test"))
    folder = asked.out / task
    probed = folder / "sensitivity.json"
    if not probed.exists():
        measure(spectra.open_checkpoint(asked.model), [train], ProbeSettings(learning_rate=2e-3)).save(probed)
    plans = []
    for name in ("combined",) if asked.quick else ("combined", "inverted"):
        settings = AllocationSettings(strategy=name, max_experts=1, min_rank=0, granularity="module")
        about = {"spectra": report, "sensitivity": planner.SensitivityReport.load(probed)}
        plans.append(folder / f"{name}.json")
        planner.allocate(str(RANK_1 // 4), settings, **about).save(plans[-1])
    settings = TrainSettings(max_steps=40 if asked.quick else asked.steps, batch_size=16, max_length=128, learning_rate=RATE)
    found = trainer.compare(
        plans, asked.model, [train], [test], folder / "study", settings, seeds=asked.seeds, rates=(), processes=1,
        binding="skip" if asked.quick else "note",
        progress=lambda done, total=None, note="": print(f"{task}: {done} of {total}, {note}", flush=True),
    )  # fmt: skip
    print(f"{task}\n{verdict(found)}\n{folder / 'study' / 'study.md'}", flush=True)


if __name__ == "__main__":
    main()
