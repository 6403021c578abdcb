"""Loading the base model for a task, and telling its head from its body."""

from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from spectra import Checkpoint, InputError
from spectra.checkpoint.families import family_of
from spectra.core.errors import first_line
from trainer.settings import Task

AUTO = {"classification": "AutoModelForSequenceClassification", "causal": "AutoModelForCausalLM"}


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside the weights, with a padding token even where the model never had one.

    Raises:
        InputError: no usable tokenizer in the folder.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no usable tokenizer: {first_line(error)}") from None
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"{folder}: the tokenizer has neither a padding nor an end-of-text token; set pad_token in its files"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_length(checkpoint: Checkpoint, max_length: int) -> None:
    """Refuse texts longer than the model has positions for.

    Raises:
        InputError: the limit.
    """
    # GPT-2 calls it n_positions.
    limit = checkpoint.config.get("max_position_embeddings") or checkpoint.config.get("n_positions")
    if not isinstance(limit, int):
        return
    if family_of(checkpoint.config).positions_after_padding:
        limit -= 1 + checkpoint.config.get("pad_token_id", 1)
    if max_length > limit:
        raise InputError(f"`max_length` {max_length} is more than the {limit} positions of {checkpoint.name}")


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: what torch says about it.
    """
    try:
        torch.empty(0, device=device)
    # A torch built without CUDA raises AssertionError, one that finds no GPU RuntimeError.
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r}: {first_line(error)}") from None


def load_model(
    checkpoint: Checkpoint,
    task: Task,
    labels: tuple[str, ...],
    seed: int,
    pad_token_id: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Any:
    """Load a pretrained model with the head that its task needs; a new head's weights depend on `seed` alone.

    Args:
        checkpoint: where the weights are.
        task: what it is to learn.
        labels: class names for classification.
        seed: seed for a new head.
        pad_token_id: the tokenizer's, for models that do not say.
        precision: precision of the weights; a new head's is always float32.

    Raises:
        InputError: a folder that transformers cannot load for this task.
    """
    if checkpoint.config.get("is_encoder_decoder"):
        raise InputError(
            f"{checkpoint.folder}: an encoder-decoder model ({checkpoint.config.get('model_type')}), which cannot be trained yet"
        )
    # Right before loading, so that a new head depends on the seed and on nothing that was drawn before.
    transformers.set_seed(seed)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    if task == "classification":
        # A checkpoint may bring a head for other labels; it is replaced by a new one instead of stopping the loading.
        options |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}
        options["label2id"] = {label: position for position, label in enumerate(labels)}
    try:
        model, loading = getattr(transformers, AUTO[task]).from_pretrained(checkpoint.folder, **options, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{checkpoint.folder}: cannot be loaded for {task}: {first_line(error)}") from None
    # transformers would give a bare encoder a random output layer and only warn; here nothing would ever train it.
    if task == "causal" and (new := sorted(loading["missing_keys"])):
        raise InputError(
            f"{checkpoint.folder}: no causal language model: its checkpoint lacks {new[0]!r}; add a label column to classify"
        )
    _require_finite(model, checkpoint)
    if precision == "bf16":
        _keep_head_precise(model)
    if model.config.pad_token_id is None:  # a classifier on a decoder finds the last token by it
        model.config.pad_token_id = pad_token_id
    return model


def _require_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{checkpoint.folder}: weight {name!r} holds {int((~torch.isfinite(parameter)).sum())} NaN or infinite values"
            )


def _keep_head_precise(model: Any) -> None:
    """A new head learns from nothing, which takes single precision; what it is given is converted."""
    for name in {name.rpartition(".")[0] for name in head(model)}:
        module = model.get_submodule(name).float()
        module.register_forward_pre_hook(lambda module, inputs: tuple(x.float() for x in inputs))


def head(model: Any) -> dict[str, nn.Parameter]:
    """Parameters outside the pretrained body: what a classifier has to learn from nothing. Empty for a language model.

    Args:
        model: a transformers model.
    """
    if not hasattr(model.config, "num_labels") or "ForSequenceClassification" not in type(model).__name__:
        return {}
    # Whatever a family calls its head, it is what is not in the body.
    body = {id(parameter) for parameter in model.base_model.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in body}
