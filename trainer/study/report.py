"""StudyReport: what `plan compare` writes, and what it says in plain words. Loads no torch."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.evaluation.metrics import METRICS
from trainer.settings import TrainSettings

BASELINE = "uniform-lora"
"""The candidate that all others are compared with."""
UNCOMPARED = (BASELINE, "head-only")  # no sentence is said about these
STUDY = "study.json"
POOLED = "all tasks"


class Candidate(Value):
    """One plan of a study."""

    name: str
    strategy: str
    parameters: int
    """Trainable parameters of its adapters, routers counted."""
    learning_rate: Measured = math.nan
    """Learning rate of its runs."""


class Result(Value):
    """One run: a candidate trained with one seed and scored on one task."""

    candidate: str
    seed: int
    task: str
    score: Measured
    """The study's metric; minus the metric where less is better, such as a loss."""


class Difference(Value):
    """A candidate beside the baseline on one task, or on the mean over tasks, seed by seed."""

    candidate: str
    task: str
    mean: Measured
    """Mean of the candidate's own score."""
    standard_error: Measured
    difference: Measured
    """Mean over seeds of candidate minus baseline."""
    low: Measured
    high: Measured
    """Bounds of its interval, wide enough that with 95% probability those of all candidates on this task are right at once."""
    seeds_needed: int | None
    """Seeds that would make a difference of this size significant; None if it is, or if a thousand would not do."""

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class StudyReport(Document):
    """Several plans of one size, trained with paired seeds."""

    kind: Literal["study"] = "study"
    model: ModelInfo
    settings: TrainSettings
    seeds: int
    metric: str
    """What is compared: a name from the table in trainer/evaluation/metrics.py."""
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=2)]
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]

    @model_validator(mode="after")
    def _every_candidate_on_every_task(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}")
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names) or BASELINE not in names:
            raise ValueError(f"candidates must have names of their own, and one must be {BASELINE}")
        for task in dict.fromkeys(one.task for one in self.differences):
            if sorted(one.candidate for one in self.differences if one.task == task) != sorted(names):
                raise ValueError(f"task {task!r} does not have one difference for each candidate")
        if not self.differences:
            raise ValueError("no differences")
        if odd := next((one for one in self.differences if one.low > one.high), None):
            raise ValueError(f"{odd.candidate} on {odd.task}: low {odd.low} is above high {odd.high}")
        return self


def sentence(report: StudyReport) -> str:
    """The study in plain words: one sentence for every candidate."""
    shown = (candidate.name for candidate in report.candidates if candidate.name not in UNCOMPARED)
    return "\n".join(_sentence(report, name) for name in shown)


def _sentence(report: StudyReport, name: str) -> str:
    metric, tasks = METRICS[report.metric], {one.task for one in report.differences} - {POOLED}
    mine = [difference for difference in report.differences if difference.candidate == name]
    whole = mine[-1]  # over all tasks, where there are several
    better, worse = (sum(side(one) for one in mine if one.task in tasks) for side in (_is_better, _is_worse))
    mean, half = metric.scale * whole.difference, metric.scale * (whole.high - whole.low) / 2
    if math.isnan(half):
        return f"{name}: {mean:+.{metric.digits}f} {metric.unit} from uniform LoRA in one seed, which gives no interval."
    size = f"{mean:+.{metric.digits}f} +- {half:.{metric.digits}f} {metric.unit}"
    if whole.significant:
        verb = "beats" if _is_better(whole) else "loses to"
        return f"{name} {verb} uniform LoRA by {size} (better on {better}, worse on {worse} of {len(tasks)} tasks)."
    more = f"; {whole.seeds_needed} seeds might be enough" if whole.seeds_needed else ""
    return f"{name}: no significant difference from uniform LoRA ({size}{more})."


def _is_better(one: Difference) -> bool:
    return one.low > 0


def _is_worse(one: Difference) -> bool:
    return one.high < 0
