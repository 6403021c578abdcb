"""The settings of a run. Loads no torch."""

import json
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator

from planner.strategies.growth import GrowthRule
from spectra.core.documents import Value
from spectra.core.errors import InputError
from spectra.core.methods import Choice, OneOf
from trainer.initializers import INITIALIZERS
from trainer.routers import ROUTERS

Task = Literal["classification", "causal"]
"""The task of a run: to predict labels, or text."""
GradientForm = Literal["paper", "released", "absolute"]
LossOn = Literal["completion", "all"]
Exact = Literal["fp32", "bf16"]
TemplateOption = str | int | float | bool
Precision = Literal["auto", "fp32", "bf16"]
"""Of frozen weights and of what is computed with them; `auto` is bf16 where the hardware has units for it."""


class MixtureSettings(Value):
    """How the planned experts are built and routed; needed again to rebuild a run's model."""

    router: Annotated[Choice, OneOf(ROUTERS, "router")] = "topk"
    """How gates follow from the router's logits."""
    balance_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight of the Switch balance loss of every router; 0.01 is usual."""
    z_loss: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight of the routers' z-loss; 0.001 is usual."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' inputs during training."""
    init: Annotated[str, OneOf(INITIALIZERS, "init")] = "kaiming"
    """How the A and B of a new expert start."""
    train_router: bool = False
    """Also train the base's own routers, once the learning rate has risen, where the plan adapts their experts."""
    alpha: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Scale of the adapters: an expert is multiplied by alpha sqrt(mean rank of the plan's experts) / its own rank."""


class GrowthSettings(GrowthRule):
    """Whether and how ranks grow during training."""

    grow: bool = False
    """Let experts start with little rank and earn the rest (DR-LoRA)."""
    growth_every: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Steps between two events of growth; 0 spreads `growth_events` evenly over the run after its warm-up."""
    growth_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the moving averages of routing and gradients."""
    growth_share: Literal["picked", "softmax"] = "picked"
    """An expert's share of routing: of the weights of the experts that tokens chose, or of the router's whole softmax."""
    growth_reset: bool = False
    """Start both averages over after each event, as the released code does."""
    saliency: GradientForm = "paper"
    """How `grow` combines the gradients of A and B: `paper` multiplies |sum A dA| and |sum B dB|, `released` adds them, `absolute` multiplies the sums of absolute values."""  # noqa: E501


class DataSettings(Value):
    """How rows of data become tokens; training, evaluation and generation share it."""

    max_length: Annotated[int, Field(gt=1, lt=2**31)] | Literal["auto"] = "auto"
    """Tokens per example; `auto` takes what the data needs, the model allows and the memory holds. Of longer conversations the oldest turns are left out, of longer prompts the front, of longer texts the end."""  # noqa: E501
    loss_on: LossOn = "completion"
    """Part of conversations and prompts that the loss counts: the answers, or everything. Plain text always counts whole."""
    turns: Literal["all", "last"] = "all"
    """Answers of a conversation that the loss counts: all, or the last one only."""
    columns: str | None = None
    """Which column is which, where their names do not say it, such as prompt=question,completion=answer."""
    role_map: str | None = None
    """Which role a speaker has, where the name does not say it, such as Alice=user,Bob=assistant."""
    chat_template: str | None = None
    """Chat template to use in place of the tokenizer's: a file, or one of chatml, alpaca, vicuna, zephyr, llama3, gemma. It is kept with the run."""  # noqa: E501
    template_option: str | None = None
    """Options of the chat template, such as enable_thinking=false. They are kept with the run. By default a thinking switch is set so that the data's answers begin as they are asked for."""  # noqa: E501
    template_date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """Day, such as 2026-01-31, that a chat template writes where it writes the day. Default: the day on which the run was begun, which it keeps."""  # noqa: E501
    join: Literal["as-is", "space"] = "as-is"
    """How a prompt and its completion are joined; `space` moves the spaces at the prompt's end to the completion's start."""

    @field_validator("columns", "role_map")
    @classmethod
    def _are_pairs(cls, text: str | None) -> str | None:
        pairs(text)
        return text

    @field_validator("template_option")
    @classmethod
    def _is_no_own_name(cls, text: str | None) -> str | None:
        if odd := pairs(text).keys() & TEMPLATE_OWN:
            raise ValueError(f"{min(odd)} is the template's input, not an option of it")
        return text

    @field_validator("template_date")
    @classmethod
    def _is_a_day(cls, text: str | None) -> str | None:
        if text:
            date.fromisoformat(text)
        return text

    def renamed(self) -> dict[str, str]:
        """The name that a column stands for -> the column."""
        return pairs(self.columns)

    def roles(self) -> dict[str, str]:
        """A speaker's name -> the role."""
        return pairs(self.role_map)

    def template_options(self) -> dict[str, TemplateOption]:
        """Name -> value of the chat template's options; what is JSON is read as such, anything else is text."""
        return {name: _plain_value(value) for name, value in pairs(self.template_option).items()}

    def data(self) -> "DataSettings":
        """This part alone, of settings that have more."""
        return DataSettings.model_validate({name: getattr(self, name) for name in DataSettings.model_fields})

    @property
    def length(self) -> int:
        """The maximum length as a number.

        Raises:
            InputError: it is still to be found.
        """
        if self.max_length == "auto":
            raise InputError("`max_length` auto has to be found from data first; give a number")
        return self.max_length


TEMPLATE_OWN = {"messages", "tools", "documents", "add_generation_prompt"}


def pairs(text: str | None) -> dict[str, str]:
    """Read pairs such as a=b,c=d.

    Raises:
        ValueError: a part that is no pair, or a name that is there twice.
    """
    found: dict[str, str] = {}
    for part in (text or "").split(",") if text is not None else []:
        name, equals, value = (side.strip() for side in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"{part!r} is no pair such as name=value")
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _plain_value(text: str) -> TemplateOption:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


class TrainSettings(DataSettings, GrowthSettings, MixtureSettings):
    """How to train. Defaults suit adapters on a small encoder; the learning rate is the one to tune first."""

    epochs: Annotated[float, Field(gt=0, le=100_000)] = 3.0
    """Passes over the training data."""
    max_steps: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Optimiser steps; 0 means as many as the epochs take."""
    batch_size: Annotated[int, Field(gt=0, lt=2**31)] = 32
    """Examples per optimiser step, over all processes and accumulated passes."""
    accumulation: Annotated[int, Field(gt=0, lt=2**31)] = 1
    """Passes that a step is split into, to save memory."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = 1e-3
    """Peak learning rate; `auto` tries five in short runs first, which costs about half a run."""
    lr_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """B's learning rate over A's (LoRA+)."""
    warmup: Annotated[float, Field(ge=0, lt=2**31)] = 0.1
    """Steps over which the learning rate rises: below 1 a share of the run's, from 1 on their number."""
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """AdamW's weight decay."""
    packing: bool = False
    """Put several short examples into one row; they do not see each other. For language models."""
    group_by_length: bool = False
    """Draw the examples of a batch among those of like length: less padding, and batches that are less mixed."""
    shard: bool = False
    """Split the frozen weights among several processes (FSDP2); adapters stay whole on each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: slower, less memory."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls to zero after the warm-up."""
    evaluations: Annotated[int, Field(gt=0, lt=2**31)] = 10
    """Number of times that the evaluation file is scored during a run."""
    patience: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Stop after this many evaluations without a better loss; 0 means never."""
    report_to: Literal["none", "tensorboard", "wandb"] = "none"
    """Tool that the training curve is also logged to."""
    precision: Precision = "auto"
    """Precision of frozen weights and matrix products; `auto` is bf16 where the hardware has units for it. Adapters, routers and head stay in float32."""  # noqa: E501
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the run: the order of the data, a new head, new adapters."""

    @property
    def rate(self) -> float:
        """The learning rate as a number.

        Raises:
            InputError: it is still to be searched for.
        """
        if self.learning_rate == "auto":
            raise InputError("`learning_rate` auto has to be searched for by `plan train`; give a number")
        return self.learning_rate

    def mixture(self) -> MixtureSettings:
        """The part that rebuilding the model takes."""
        return MixtureSettings.model_validate({name: getattr(self, name) for name in MixtureSettings.model_fields})


class ProbeSettings(DataSettings):
    """Settings of `plan probe`."""

    samples: Annotated[int, Field(ge=1, lt=2**31)] = 128
    """Examples per task."""
    modules: str | None = None
    """Modules to measure, separated by commas: names as PEFT's target_modules takes them, `attention`, `mlp`, or patterns of the whole name. Default: all linear modules of the layers."""  # noqa: E501
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed for sampling examples and for a new classification head."""
    precision: Precision = "auto"
    """Precision of frozen weights and matrix products; `auto` is bf16 where the hardware has units for it."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them: slower, less memory."""
    effective_rank: bool = False
    """Also measure the effective rank of every module's gradient, for the strategy `effective-rank`. Holds one gradient and one covariance of inputs per module."""  # noqa: E501
    trial_steps: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Steps of a trial run that measures which modules' adapters reduce the loss; 0 leaves it out. Default 30 for a language model, 0 for a classifier."""  # noqa: E501
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """Learning rate of the trial run; use the one that you will train with."""
    batch_size: Annotated[int, Field(gt=0, lt=2**31)] = 16
    """Examples per step of the trial run."""
