"""What training and evaluation report, and the settings of a run. Loads no torch."""

import math
from typing import Literal

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.settings import TrainSettings


class RouterHealth(Value):
    """How one mixture's router has used its experts, padding left out."""

    site: str
    shares: tuple[float, ...]
    """Of the gates' mass, one per expert; they sum to 1."""
    entropy: Measured
    """Mean entropy of the router's probabilities over its largest possible value: 1 undecided, 0 certain."""
    effective_support: Measured
    """exp of the shares' entropy: how many experts do the work."""
    dropped: Measured
    """Share of picks that a capacity limit turned away."""


class LogPoint(Value):
    """One point of the training curve."""

    step: int
    loss: Measured
    learning_rate: float
    effective_support: Measured = math.nan
    """Of the routers, on average; NaN without any."""
    entropy: Measured = math.nan
    """Of the routers' probabilities over its maximum, on average."""
    dropped: Measured = math.nan
    """Share of picks that capacity limits turned away."""


class EvaluationPoint(Value):
    """The loss on the evaluation file during a run."""

    step: int
    loss: Measured


class RunReport(Document):
    """What a training run did."""

    kind: Literal["run"] = "run"
    model: ModelInfo
    strategy: str
    settings: TrainSettings
    examples: int
    truncated: int
    steps: int
    adapter_parameters: int
    head_parameters: int
    dropped: int = 0
    """Examples left out because truncation took everything that the loss counts."""
    curve: tuple[LogPoint, ...]
    evaluations: tuple[EvaluationPoint, ...] = ()
    best_step: int | None = None
    """Of the evaluations; its adapters are in the folder `best`."""
    routes: tuple[RouterHealth, ...] = ()
    """How each router chose at the end of the run."""
    notes: tuple[str, ...] = ()
    """What a reader should know, for instance that a router has collapsed."""
    seconds: Measured = math.nan
    tokens_per_second: Measured = math.nan
    """Of training, padding left out; NaN for a resumed run, whose first part is not timed."""
    peak_memory: int = 0
    """Bytes: the process's largest resident size, or what a GPU's allocator held at most."""


class Score(Value):
    """How one way of answering did."""

    loss: Measured
    """Mean cross-entropy per example, in nats; of a language model's example per token."""
    accuracy: Measured
    """Share of right answers: of the classes, or of the choices; NaN for language modelling."""
    f1: Measured = math.nan
    """Macro-averaged over the classes of the data; NaN without classes."""
    exact_match: Measured = math.nan
    """Share of generated completions that equal the reference, spaces at both ends aside; NaN if none were generated."""

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.exp(min(self.loss, 700.0))


class TaskEvaluation(Value):
    """One held-out file."""

    name: str
    examples: int
    trained: Score
    untrained: Score
    majority: Score


class Evaluation(Document):
    """A run on held-out data, beside two answers that need no training."""

    kind: Literal["evaluation"] = "evaluation"
    tasks: tuple[TaskEvaluation, ...] = ()
    """Each held-out file; the scores beside this are the mean over all examples."""
    examples: int
    truncated: int
    trained: Score
    untrained: Score
    """The same model before its first step: frozen features under the untrained head, or the base language model."""
    majority: Score
    """Always the most frequent training label, with the training frequencies as probabilities; NaN for language modelling."""


class GrowthEvent(Value):
    """One event: what every expert had, and what decided."""

    step: int
    ranks: dict[str, tuple[int, ...]]
    """Layer's experts module -> rank of each expert after the event."""
    shares: dict[str, tuple[float, ...]]
    """f: moving share of routing weight."""
    saliency: dict[str, tuple[float, ...]]
    """S before the event."""


class GrowthHistory(Document):
    """Every event of a run."""

    kind: Literal["growth"] = "growth"
    events: tuple[GrowthEvent, ...]
