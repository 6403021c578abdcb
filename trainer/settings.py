"""The settings of a run."""

from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Value

TaskKind = Literal["classification", "causal"]


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
