"""The test-beds of the study: a base model, its tasks, and how runs on it train."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import language
import tasks

from trainer.demo import classifier as demo
from trainer.settings import TrainSettings
from trainer.study.jobs import Job, threads


def base_model(folder: Path) -> Path:
    """MiniLM without dropout and with plain attention: the same network, twice as fast on a CPU."""
    source, target = demo.link_model(folder).resolve(), folder / "minilm"
    if not (target / "config.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.*"):
            if path.is_file() and path.name != "config.json":
                shutil.copy(path, target / path.name)
        config = json.loads((source / "config.json").read_text())
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "_attn_implementation": "eager"}
        (target / "config.json").write_text(json.dumps(config | still))
    return target


@dataclass(frozen=True, slots=True)
class Bed:
    """A base model and its tasks."""

    model: Callable[[Path], Path]
    write: Callable[[Path, str], tuple[Path, Path]]
    length: int
    batch: int
    steps: int
    precision: Literal["auto", "fp32"]

    def settings(self, rate: float, **others: object) -> TrainSettings:
        """How its runs train."""
        usual = {"max_steps": self.steps, "max_length": self.length, "batch_size": self.batch, "precision": self.precision}
        return TrainSettings.model_validate(usual | {"learning_rate": rate} | others)

    def job(
        self, output: Path, tasks: Sequence[str], name: str, plan: Path, folder: Path, settings: TrainSettings, processes: int
    ) -> Job:
        """One run of a plan on one task or several together, beside `processes` - 1 others."""
        files = [self.write(output / "tasks", task) for task in tasks]
        return Job(
            candidate=name,
            plan=str(plan),
            model=str(self.model(output)),
            data=tuple(str(train) for train, _ in files),
            tests=tuple(str(test) for _, test in files),
            folder=str(folder),
            settings=settings,
            threads=threads(processes),
        )


BEDS = {
    "minilm": Bed(base_model, tasks.write, 32, 32, 150, "auto"),
    "language": Bed(language.model, language.write, 128, 16, 100, "fp32"),
    "dense": Bed(partial(language.model, name="dense"), language.write, 128, 16, 100, "fp32"),
    "longer": Bed(partial(language.model, name="dense"), language.write, 128, 16, 400, "fp32"),
}
