"""StudyReport: what `plan compare` writes, and the statistics in it. Loads no torch."""

import math
from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.settings import TrainSettings

BASELINE = "uniform-lora"
STUDY = "study.json"
POOLED = "all tasks"


class Candidate(Value):
    """One plan of a study."""

    name: str
    strategy: str
    parameters: int
    """Trainable parameters of its adapters, routers counted."""
    learning_rate: Measured = math.nan
    """That its runs used; NaN in studies that did not note it."""


class Result(Value):
    """One run: an entrant trained with one seed and scored on one task."""

    candidate: str
    seed: int
    task: str
    score: Measured
    """Accuracy of a classifier; minus the loss of a language model, so that more is better."""


class Difference(Value):
    """An entrant beside the control on one task, or on the mean over tasks, seed by seed."""

    candidate: str
    task: str
    mean: Measured
    """Of the entrant's own score."""
    standard_error: Measured
    difference: Measured
    """Mean over seeds of entrant minus control."""
    low: Measured
    high: Measured
    """Its interval, wide enough that with 95% probability those of all entrants on this task are right at once."""
    seeds_needed: int | None
    """How many seeds would settle a difference of this size; None if it is settled, or too small for a thousand."""

    @property
    def settled(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class StudyReport(Document):
    """Several plans of one size, trained with paired seeds."""

    kind: Literal["study"] = "study"
    model: ModelInfo
    settings: TrainSettings
    seeds: int
    metric: Literal["accuracy", "loss"]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=2)]
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]


def sentence(report: StudyReport) -> str:
    """The study in plain words."""
    scale, unit, digits = (100, "points", 1) if report.metric == "accuracy" else (1, "nats per token", 3)
    tasks = {difference.task for difference in report.differences} - {POOLED}
    said = []
    for candidate in report.candidates:
        if candidate.name in (BASELINE, "head-only"):
            continue
        mine = [difference for difference in report.differences if difference.candidate == candidate.name]
        whole = mine[-1]
        better = sum(one.low > 0 for one in mine if one.task in tasks)
        worse = sum(one.high < 0 for one in mine if one.task in tasks)
        size = f"{scale * whole.difference:+.{digits}f} +- {scale * (whole.high - whole.low) / 2:.{digits}f} {unit}"
        if whole.low > 0:
            said.append(
                f"{candidate.name} beats uniform LoRA by {size} (better on {better}, worse on {worse} of {len(tasks)} tasks)."
            )
        elif whole.high < 0:
            said.append(
                f"{candidate.name} loses to uniform LoRA by {size} (better on {better}, worse on {worse} of {len(tasks)} tasks)."
            )
        else:
            more = f"; {whole.seeds_needed} seeds might settle it" if whole.seeds_needed else ""
            said.append(f"{candidate.name}: no difference to uniform LoRA could be shown ({size}{more}).")
    return "\n".join(said)
