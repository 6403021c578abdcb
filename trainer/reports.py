"""What training and evaluation report, and the settings of a run. Loads no torch."""

from typing import Annotated, Literal

from pydantic import Field

from spectra.report import ModelInfo
from spectra.values import Document, Measured, Value

REPORT, EVALUATION = "run.json", "evaluation.json"


class MixtureSettings(Value):
    """How the planned experts are built and routed; needed again to rebuild a run's model."""

    router: Literal["topk", "sira", "dense", "constant"] = "topk"
    """How gates follow from the router's logits."""
    capacity: Annotated[float, Field(gt=0, le=1000)] = 1.25
    """sira: an expert takes at most this many times its even share of a batch's tokens, in training."""
    expert_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """sira: probability that an expert is closed to a token, in training."""
    balance_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight of the Switch balance loss of every router; 0.01 is usual."""
    z_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight of the routers' z-loss; 0.001 is usual."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the adapters' inputs, in training."""
    init: Literal["kaiming", "svd"] = "kaiming"
    """Of the experts: A random and B zero, or segments of the weight's own singular vectors (GOAT; with one expert PiSSA)."""
    alpha: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Every expert is scaled by alpha / sqrt(rank)."""


class TrainSettings(MixtureSettings):
    """How to train. Defaults suit adapters on a small encoder; the learning rate is the one to tune first."""

    epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps; 0 means as many as the epochs take."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps over which the learning rate rises; afterwards it falls linearly to zero."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_length: Annotated[int, Field(gt=1)] = 128
    """Tokens per text; longer texts lose their end, and the run reports how many."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; `auto` is bf16 where the hardware has units for it. Weights, adapters and routing stay in float32."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class RouteHealth(Value):
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
    curve: tuple[LogPoint, ...]


class Score(Value):
    """How one way of answering did."""

    loss: Measured
    """Mean cross-entropy per example, in nats."""
    accuracy: Measured
    """Share of right answers; NaN for language modelling."""


class Evaluation(Document):
    """A run on held-out data, beside two answers that need no training."""

    kind: Literal["evaluation"] = "evaluation"
    examples: int
    truncated: int
    trained: Score
    untrained: Score
    """The same model before its first step: frozen features under the untrained head, or the base language model."""
    majority: Score
    """Always the most frequent training label, with the training frequencies as probabilities; NaN for language modelling."""
