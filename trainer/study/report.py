"""StudyReport: what `plan compare` writes, and the statistics in it. Loads no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.report import TrainSettings

COVERAGE = 0.95
CONTROL = "uniform-lora"
STUDY = "study.json"
POOLED = "all tasks"


class Entrant(Value):
    """One plan of a study."""

    name: str
    strategy: str
    parameters: int
    """Trainable parameters of its adapters, routers counted."""
    learning_rate: Measured = math.nan
    """That its runs used; NaN in studies that did not note it."""


class Result(Value):
    """One run: an entrant trained with one seed and scored on one task."""

    entrant: str
    seed: int
    task: str
    score: Measured
    """Accuracy of a classifier; minus the loss of a language model, so that more is better."""


class Difference(Value):
    """An entrant beside the control on one task, or on the mean over tasks, seed by seed."""

    entrant: str
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
    entrants: Annotated[tuple[Entrant, ...], Field(min_length=2)]
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]


def differences(names: Sequence[str], results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every entrant beside the control, per task and pooled.

    Args:
        names: the entrants, the control among them.
        results: one per entrant, seed and task.
    """
    tasks = list(dict.fromkeys(result.task for result in results))
    scores = {(result.entrant, result.task, result.seed): result.score for result in results}
    seeds = sorted({result.seed for result in results})
    found = []
    for task in [*tasks, *([POOLED] if len(tasks) > 1 else [])]:
        of_task = tasks if task == POOLED else [task]
        table = {name: np.array([[scores[name, one, seed] for one in of_task] for seed in seeds]).mean(axis=1) for name in names}
        found += [_difference(name, task, table, len(names) - 1) for name in names]
    return tuple(found)


def _difference(name: str, task: str, table: Mapping[str, np.ndarray], comparisons: int) -> Difference:
    mine, delta = table[name], table[name] - table[CONTROL]
    n = delta.size
    error = mine.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    mean = float(delta.mean())
    half = _quantile(n, comparisons) * delta.std(ddof=1) / math.sqrt(n) if n > 1 and name != CONTROL else math.nan
    if name == CONTROL:
        half = 0.0
    return Difference(
        entrant=name,
        task=task,
        mean=float(mine.mean()),
        standard_error=float(error),
        difference=mean,
        low=mean - half,
        high=mean + half,
        seeds_needed=None if name == CONTROL or n < 2 or abs(mean) > half else _seeds_needed(delta, comparisons),
    )


def _quantile(n: int, comparisons: int) -> float:
    """Student's t with Bonferroni's correction for several comparisons with one control."""
    from scipy.stats import t  # takes a moment to import

    return float(t.ppf(1 - (1 - COVERAGE) / (2 * max(1, comparisons)), n - 1))


def _seeds_needed(delta: np.ndarray, comparisons: int) -> int | None:
    """The least n for which an interval of this spread would exclude zero."""
    spread, mean = float(delta.std(ddof=1)), abs(float(delta.mean()))
    for n in range(delta.size + 1, 1001):
        if _quantile(n, comparisons) * spread / math.sqrt(n) < mean:
            return n
    return None


def sentence(report: StudyReport) -> str:
    """The study in plain words."""
    scale, unit, digits = (100, "points", 1) if report.metric == "accuracy" else (1, "nats per token", 3)
    tasks = {difference.task for difference in report.differences} - {POOLED}
    said = []
    for entrant in report.entrants:
        if entrant.name in (CONTROL, "head-only"):
            continue
        mine = [difference for difference in report.differences if difference.entrant == entrant.name]
        whole = mine[-1]
        better = sum(one.low > 0 for one in mine if one.task in tasks)
        worse = sum(one.high < 0 for one in mine if one.task in tasks)
        size = f"{scale * whole.difference:+.{digits}f} +- {scale * (whole.high - whole.low) / 2:.{digits}f} {unit}"
        if whole.low > 0:
            said.append(
                f"{entrant.name} beats uniform LoRA by {size} (better on {better}, worse on {worse} of {len(tasks)} tasks)."
            )
        elif whole.high < 0:
            said.append(
                f"{entrant.name} loses to uniform LoRA by {size} (better on {better}, worse on {worse} of {len(tasks)} tasks)."
            )
        else:
            more = f"; {whole.seeds_needed} seeds might settle it" if whole.seeds_needed else ""
            said.append(f"{entrant.name}: no difference to uniform LoRA could be shown ({size}{more}).")
    return "\n".join(said)
