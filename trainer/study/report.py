"""StudyReport: what `plan compare` writes. Loads no torch."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.evaluation.metrics import METRICS
from trainer.report import Scores, TriedRate
from trainer.settings import TrainSettings

BASELINE = "uniform-lora"
"""The arm that all others are compared with first."""
UNCOMPARED = (BASELINE, "head-only")  # nothing is concluded about these
STUDY = "study.json"
POOLED = "all tests"
SIGNIFICANT = 0.05
Bind = Literal["stop", "note", "skip"]
"""What to do about a budget that does not bind: stop, say so and go on, or do not ask."""


class Arm(Value):
    """One plan of a study, with what is particular to its runs."""

    name: str
    strategy: str
    parameters: int
    """Trainable parameters of its adapters, routers counted."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings in which its runs differ from the study's."""
    learning_rate: Measured = math.nan
    """Learning rate of its runs."""
    tried: tuple[TriedRate, ...] = ()
    """The rates it was chosen from, with their losses on the part of the training data that is never reported."""
    runs: int = 0
    diverged: int = 0
    """Runs whose loss was not finite; their seeds count in no difference with this arm."""
    probing_seconds: Measured = math.nan
    """What the reports took that the plan was made from; zero for one made without."""
    tuning_seconds: Measured = math.nan
    """All runs of the search for its learning rate together."""
    training_seconds: Measured = math.nan
    """A run, on average."""
    peak_memory: int = 0
    """Bytes, of its largest run."""


class TestFile(Value):
    """A held-out file, and what is measured on it."""

    __test__ = False  # no class of tests, whatever pytest makes of the name

    name: str
    sha256: str
    examples: int
    measure: str
    """What differences on this file are of; the first of the measures that its examples have."""
    beside: str = ""
    """Another measure that is shown beside it."""


class Result(Value):
    """One run: an arm trained with one seed and scored on one file."""

    arm: str
    seed: int
    test: str
    scores: Scores
    folder: str
    """Name of the run's folder in the study's folder `runs`."""


class Difference(Value):
    """One arm beside another on one test file, or on the mean over those of one measure."""

    arm: str
    other: str
    test: str
    measure: str
    mean: Measured
    """The arm's own mean."""
    difference: Measured
    """Mean over seeds and examples of arm minus other."""
    error: Measured
    """Its standard error, from seeds and examples both; NaN with a single seed."""
    low: Measured
    high: Measured
    """Bounds of its 95% interval."""
    p: Measured
    """Of no difference, adjusted by Holm for the differences that it is read with; NaN where nothing varies."""
    seeds: int
    seeds_needed: int | None = None
    """Seeds that would find a difference of this size in four of five studies; None if it was found, or a thousand would not."""

    @property
    def significant(self) -> bool:
        """Whether the two differ by more than chance."""
        return self.p < SIGNIFICANT  # false for NaN

    @property
    def better(self) -> bool:
        """Whether the arm is better by more than chance."""
        return self.significant and METRICS[self.measure].sign * self.difference > 0

    @property
    def worse(self) -> bool:
        """Whether the arm is worse by more than chance."""
        return self.significant and METRICS[self.measure].sign * self.difference < 0


class Size(Value):
    """Uniform LoRA at one size, in the check whether the budget binds."""

    arm: str
    parameters: int
    mean: Measured
    error: Measured = math.nan
    """Standard error of its difference from the best size."""


class Binding(Value):
    """Whether the size of the plans limits the loss: uniform LoRA at a quarter of it, at all of it, and at four times it."""

    test: str
    measure: str
    sizes: tuple[Size, ...]
    """From small to large."""
    differences: tuple[Difference, ...]
    """Every pair of sizes, the smaller minus the larger; adjusted together."""
    binds: bool | None
    """Whether the plans' size, or the next smaller one, is worse than a larger one; None if it cannot be told."""
    enough: int
    """The fewest parameters that lose no more than a negligible amount to every larger size, by the 95% intervals."""
    possible: Measured
    """The most that the plans' size, or the next smaller one, may lose to a larger one; NaN where nothing is known."""


class Power(Value):
    """What a study can find, from the spread of its first runs."""

    test: str
    measure: str
    seeds: int
    examples: int
    detectable: Measured
    """The difference from the baseline that is found in four of five such studies."""
    seeds_for_half: int | None = None
    """Seeds that would find half of it; None if a thousand would not, and only more test examples would."""
    planned_seconds: Measured = math.nan
    """What the runs take that were still to be done, one after the other."""


class StudyReport(Document):
    """Several plans of one size, trained with paired seeds."""

    kind: Literal["study"] = "study"
    model: ModelInfo
    data: dict[str, str]
    """Training file -> its content's sha256."""
    settings: TrainSettings
    seeds: int
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    """The plans, and then uniform LoRA of the other sizes in the check whether the budget binds."""
    tests: Annotated[tuple[TestFile, ...], Field(min_length=1)]
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]
    """Every arm minus the baseline, on each test file and over all of one measure; adjusted together, file by file."""
    between: tuple[Difference, ...] = ()
    """Every pair of the user's own plans, over all files of a measure; adjusted together."""
    beside: tuple[Difference, ...] = ()
    """As `differences`, of the measure that is shown beside."""
    binding: Binding | None = None
    power: Power | None = None

    @property
    def stopped(self) -> bool:
        """Whether the study ended after its first question, because the budget does not bind."""
        return not self.differences

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def whole(self) -> tuple[str, ...]:
        """The tests that a conclusion rests on: the pooled ones, one for each measure, or the only file."""
        measures = list(dict.fromkeys(test.measure for test in self.tests))
        return tuple(pooled_name(measure, [test for test in self.tests if test.measure == measure]) for measure in measures)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names) or BASELINE not in names:
            raise ValueError(f"arms must have names of their own, and one must be {BASELINE}")
        for one in (*self.differences, *self.between, *self.beside):
            if one.measure not in METRICS:
                raise ValueError(f"measure {one.measure!r} is not one of {', '.join(METRICS)}")
            if {one.arm, one.other} - set(names):
                raise ValueError(f"a difference of {one.arm} and {one.other}, which are not both arms")
            if one.low > one.high:
                raise ValueError(f"{one.arm} on {one.test}: low {one.low} is above high {one.high}")
        return self


def pooled_name(measure: str, tests: "list[TestFile]") -> str:
    """What the mean over files of one measure is called; a single file keeps its own name."""
    return tests[0].name if len(tests) == 1 else f"{POOLED} ({measure})"
