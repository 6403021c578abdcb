"""Tokens and plans of the studies on SmolLM2 as one file that needs only torch to be read: `prepare.py MODEL DATA REPORTS OUT`.

DATA is the folder of the ten tasks, REPORTS has `spectra.json` and a report of `plan probe` for each task. The file holds, per
task, the training rows (whole, and the nine tenths and the tenth of the sweep), the test rows, and a list of arms.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from arms import TASKS, Arms

from trainer.base_model import load_tokenizer
from trainer.data.dataset import read_texts
from trainer.data.split import split
from trainer.data.tokenize import tokenise

SEEDS, SWEEP_SEED, LENGTH = 8, 1_000_000, 128
SMALL, LARGE = (1e-3, 2e-3, 4e-3), (5e-4, 1e-3, 2e-3)
"""Learning rates to choose from; a plan below rank 1 wants larger ones."""


@dataclass(frozen=True)
class Arm:
    """A plan by name, its size in parts of rank 1, and in which stage it runs."""

    name: str
    size: float
    stage: int
    seeds: int = SEEDS
    alpha: float = 4.0
    ratio: float = 1.0
    first_seed: int = 0

    @property
    def label(self) -> str:
        """Name and size, and what is not usual."""
        extra = "".join(
            [f" alpha {self.alpha:g}" if self.alpha != 4 else "", f" ratio {self.ratio:g}" if self.ratio != 1 else ""]
        )
        return f"{self.name} {self.size:g}{extra}"


ARMS = (
    Arm("uniform", 8, 0, seeds=16),
    Arm("uniform", 1, 0),
    Arm("random", 1 / 4, 1),
    Arm("even", 1 / 4, 1),
    Arm("combined", 1 / 4, 1),
    Arm("inverted", 1 / 4, 1),
    Arm("sensitivity", 1 / 4, 1),
    Arm("effective-rank", 1 / 4, 1),
    Arm("upper", 1 / 4, 1),
    Arm("random", 1 / 16, 1),
    Arm("combined", 1 / 16, 1),
    Arm("effective-rank", 1 / 16, 1),
    Arm("sensitivity", 1 / 16, 1),
    Arm("without-alphas", 1 / 4, 2),
    Arm("without-gradients", 1 / 4, 2),
    Arm("without-trial", 1 / 4, 2),
    Arm("values-outputs", 1 / 4, 2),
    Arm("uniform", 4, 2),
    Arm("uniform", 2, 3, seeds=4),
    Arm("random", 2, 3, seeds=4),
    Arm("combined", 2, 3, seeds=4),
    Arm("alphalora", 2, 3, seeds=4),
    Arm("mola", 2, 3, seeds=4),
    Arm("lora-smoe", 2, 3, seeds=4),
    Arm("effective-rank", 2, 3, seeds=4),
    Arm("sensitivity", 2, 3, seeds=4),
    Arm("uniform", 32, 4),
    Arm("uniform", 8, 4, ratio=4.0),
    Arm("uniform", 8, 4, ratio=16.0),
    Arm("uniform", 8, 4, alpha=1.0),
    Arm("uniform", 8, 4, alpha=16.0),
)


def main(model: Path, data: Path, reports: Path, out: Path) -> None:
    """Write the file."""
    made, tokenizer, found = Arms(model, reports), load_tokenizer(model), {}
    shapes = dict(made.checkpoint.modules())

    def rows(file: Path) -> dict[str, list[list[int]]]:
        table = tokenise(read_texts(file), tokenizer, LENGTH, ()).rows
        return {name: [list(row) for row in table[name]] for name in ("input_ids", "labels")}

    for task in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            train, validation = split(data / f"{task}.train.jsonl", Path(folder))
            parts = {"tune": rows(train), "validation": rows(validation)}
        parts |= {"train": rows(data / f"{task}.train.jsonl"), "test": rows(data / f"{task}.test.jsonl")}
        arms = []
        for arm in ARMS:
            draws = range(arm.seeds) if arm.name == "random" else [0]
            plans = (
                {draw: made.arm(arm.name, arm.size, task, draw) for draw in (*draws, SWEEP_SEED)}
                if arm.name == "random"
                else {0: made.arm(arm.name, arm.size, task)}
            )
            arms.append(asdict(arm) | {"label": arm.label, "plans": plans, "rates": LARGE if arm.size >= 1 else SMALL})
        found[task] = parts | {"arms": arms}
        print(task, len(parts["train"]["labels"]), len(arms), flush=True)
    torch.save({"tasks": found, "modules": [name for name in shapes if ".layers." in name], "sweep_seed": SWEEP_SEED}, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
