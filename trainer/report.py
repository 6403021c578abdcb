"""Reports of training, growth and evaluation. Loads no torch."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo
from trainer.settings import TrainSettings


class RouterHealth(Value):
    """How one mixture's router, or the base's own, has used its experts, padding left out."""

    site: str
    shares: tuple[float, ...]
    """Share of the gates' mass, one per expert, over all tokens; they sum to 1."""
    learned_shares: tuple[float, ...] = ()
    """The same at the tokens whose outputs a label is compared with; all of a classifier's."""
    entropy: Measured
    """Mean entropy of the router's probabilities over its largest possible value: 1 undecided, 0 certain; NaN for a base's."""
    effective_support: Measured
    """exp of the shares' entropy: how many experts do the work."""
    dropped: Measured
    """Share of picks that a capacity limit turned away; NaN for the base's own experts."""
    unserved: Measured = 0.0
    """Share of tokens that no expert took; NaN for the base's own experts."""


class LogPoint(Value):
    """One point of the training curve."""

    step: int
    loss: Measured
    learning_rate: float
    effective_support: Measured = math.nan
    """Mean over the routers; NaN without any."""
    entropy: Measured = math.nan
    """Mean entropy of the routers' probabilities, over its maximum."""
    dropped: Measured = math.nan
    """Share of picks that capacity limits turned away."""
    unserved: Measured = math.nan
    """Share of tokens that no expert took, mean over the routers."""


class EvaluationPoint(Value):
    """The loss on the evaluation file during a run."""

    step: int
    loss: Measured


class TriedRate(Value):
    """A short run at one learning rate."""

    learning_rate: float
    steps: int
    loss: Measured
    """On held-out examples; NaN or infinite if it diverged."""


class RateSearch(Value):
    """How the learning rate of a run was found."""

    learning_rate: float
    tried: tuple[TriedRate, ...]
    seconds: Measured = math.nan

    @property
    def steps(self) -> int:
        """Steps of all runs that were tried."""
        return sum(one.steps for one in self.tried)


class RunReport(Document):
    """Report of a training run."""

    kind: Literal["run"] = "run"
    model: ModelInfo
    strategy: str
    settings: TrainSettings
    rate_search: RateSearch | None = None
    """How the learning rate was found, where it was searched for."""
    examples: int
    truncated: int
    steps: int
    adapter_parameters: int
    head_parameters: int
    base_router_parameters: int = 0
    """Trained weights of the base's own routers, which no plan counts."""
    dropped: int = 0
    """Examples left out because truncation took everything that the loss counts."""
    curve: tuple[LogPoint, ...]
    evaluations: tuple[EvaluationPoint, ...] = ()
    best_step: int | None = None
    """Step of the best evaluation; its adapters are in the folder `best`."""
    routers: tuple[RouterHealth, ...] = ()
    """How each router chose at the end of the run."""
    idle: tuple[str, ...] = ()
    """Experts whose adapter is still at its start: `SITE, expert N`, or the name of a routed expert of the base."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader should know, for instance that a router has collapsed."""
    seconds: Measured = math.nan
    tokens_per_second: Measured = math.nan
    """Tokens trained on per second, padding left out; NaN for a resumed run, whose first part is not timed."""
    peak_memory: int = 0
    """Bytes: the process's largest resident size, or what a GPU's allocator held at most."""


Scores = dict[str, Measured]
"""Metric -> value, for the metrics that apply; names are those of the table in trainer/evaluation/metrics.py."""


class Generation(Value):
    """A prompt of a held-out file, what should follow, and what the model wrote before and after training."""

    prompt: str
    reference: str
    untrained: str
    """Empty if the untrained model was not asked."""
    trained: str


class TaskEvaluation(Value):
    """One held-out file."""

    name: str
    examples: int
    trained: Scores
    untrained: Scores
    """The same model before its first step; empty if it was not scored."""
    majority: Scores
    """The most frequent label for every example; empty for a language model."""
    generations: tuple[Generation, ...] = ()
    """The first few, where texts were generated."""
    by_example: dict[str, tuple[Measured, ...]] = Field(default_factory=dict)
    """Loss of every example in the file's order, and 1 where the pick was right, else 0; kept where a study asks for it."""

    def rows(self) -> dict[str, Scores]:
        """The answers that have scores, under the names that tables and figures show."""
        return _rows(self.trained, self.untrained, self.majority)


class Evaluation(Document):
    """A run on held-out data, beside two answers that need no training."""

    kind: Literal["evaluation"] = "evaluation"
    tasks: tuple[TaskEvaluation, ...] = ()
    """Each held-out file; the scores beside this are over all examples."""
    examples: int
    truncated: int
    trained: Scores
    untrained: Scores
    """The same model before its first step: frozen features under the untrained head, or the base language model."""
    majority: Scores
    """Always the most frequent training label, with the training frequencies as probabilities; empty for language modelling."""

    def rows(self) -> dict[str, Scores]:
        """The answers that have scores, under the names that tables and figures show."""
        return _rows(self.trained, self.untrained, self.majority)


def _rows(trained: Scores, untrained: Scores, majority: Scores) -> dict[str, Scores]:
    rows = {"fine-tuned": trained, "untrained": untrained, "majority class": majority}
    return {name: found for name, found in rows.items() if found}


class GrowthEvent(Value):
    """One event: what every expert had, and what decided."""

    step: int
    ranks: dict[str, tuple[int, ...]]
    """Growth group (a layer's routed experts, or a module's mixture) -> rank of each expert after the event."""
    shares: dict[str, tuple[float, ...]]
    """f: moving share of routing weight."""
    saliency: dict[str, tuple[float, ...]]
    """S before the event."""


class GrowthHistory(Document):
    """Every event of a run."""

    kind: Literal["growth"] = "growth"
    events: Annotated[tuple[GrowthEvent, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_set_of_experts(self) -> Self:
        sizes = {group: len(ranks) for group, ranks in self.events[0].ranks.items()}
        for event in self.events:
            for what in ("ranks", "shares", "saliency"):
                # Before anything was observed a group has no shares.
                found = {group: len(values) or sizes.get(group) for group, values in getattr(event, what).items()}
                if found != sizes:
                    raise ValueError(f"step {event.step}: {what} are of other experts than those of step {self.events[0].step}")
        return self
