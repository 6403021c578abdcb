"""What training and evaluation report, and the settings of a run. Loads no torch."""

import math
from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo

REPORT, EVALUATION, HISTORY, BEST = "run.json", "evaluation.json", "growth.json", "best"


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
    """Of the experts: A random and B zero, or segments of the weight's own singular vectors (GOAT; PiSSA for one expert)."""
    alpha: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """An expert is scaled by alpha sqrt(mean rank of the plan's experts) / its own rank."""
    base_precision: Literal["fp32", "bf16"] = "fp32"
    """Of the frozen weights; bf16 halves their memory. Adapters, routers and head stay in float32."""


class TrainSettings(MixtureSettings):
    """How to train. Defaults suit adapters on a small encoder; the learning rate is the one to tune first."""

    epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps; 0 means as many as the epochs take."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Examples per optimiser step, over all processes and accumulated passes."""
    accumulation: Annotated[int, Field(gt=0)] = 1
    """Passes that a step is split into, to save memory."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_length: Annotated[int, Field(gt=1)] = 128
    """Tokens per text; longer texts lose their end, and the run reports how many."""
    loss_on: Literal["completion", "all"] = "completion"
    """Of conversations and prompts: what the loss counts; plain text always counts whole."""
    packing: bool = False
    """Put several short examples into one row; they do not see each other. For language models."""
    shard: bool = False
    """Over several processes: split the frozen weights among them (FSDP2); adapters stay whole on each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: slower, less memory."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls to zero after the warm-up."""
    evaluations: Annotated[int, Field(gt=0)] = 10
    """Times that the evaluation file is scored during a run."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many evaluations without a better loss; 0 means never."""
    grow: bool = False
    """Let experts start with half of their mean rank and earn the rest (DR-LoRA)."""
    saliency: Literal["paper", "released"] = "paper"
    """With --grow: multiply the gradient terms of A and B, as published, or add them, as the released code does."""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Where else to log."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; `auto` is bf16 where the hardware has units for it. Adapters and routing stay in float32."""
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
    routes: tuple[RouteHealth, ...] = ()
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
