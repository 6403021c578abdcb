"""Loading the base model for a task, and telling its head from its body."""

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from spectra import Checkpoint, InputError
from trainer.data import TaskKind

AUTO = {"classification": "AutoModelForSequenceClassification", "causal": "AutoModelForCausalLM"}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside the weights, with a padding token even where the model never had one.

    Raises:
        InputError: no usable tokenizer in the folder.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no usable tokenizer: {_first_line(error)}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(checkpoint: Checkpoint, kind: TaskKind, labels: tuple[str, ...], seed: int, dtype: Any = torch.float32) -> Any:
    """Load a pretrained model with the head that its task needs; a new head's weights depend on `seed` alone.

    Args:
        checkpoint: where the weights are.
        kind: the task.
        labels: class names for classification.
        seed: of a new head.
        dtype: of the weights.

    Raises:
        InputError: a folder that transformers cannot load for this task.
    """
    _be_quiet()
    transformers.set_seed(seed)
    options: dict[str, Any] = {"dtype": dtype}
    if kind == "classification":
        options |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}
        options["label2id"] = {label: position for position, label in enumerate(labels)}
    try:
        model = getattr(transformers, AUTO[kind]).from_pretrained(checkpoint.folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{checkpoint.folder}: cannot be loaded for {kind}: {_first_line(error)}") from None
    _require_finite(model, checkpoint)
    return model


def _require_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{checkpoint.folder}: weight {name!r} holds {int((~torch.isfinite(parameter)).sum())} NaN or infinite values"
            )


def _be_quiet() -> None:
    """Our own progress bars and messages say what matters; transformers' would run through them."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def head(model: Any) -> dict[str, nn.Parameter]:
    """Parameters outside the pretrained body: what a classifier has to learn from nothing. Empty for a language model.

    Args:
        model: a transformers model.
    """
    if not hasattr(model.config, "num_labels") or "ForSequenceClassification" not in type(model).__name__:
        return {}
    body = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in body}
