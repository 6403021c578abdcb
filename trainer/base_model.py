"""Loading the base model for a task, and telling its head from its body."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from planner.modules.attention import use_products
from planner.modules.norms import use_fused_norms
from spectra import Checkpoint, InputError
from spectra.checkpoint.gguf_file import SUFFIX as GGUF
from spectra.core.errors import first_line
from trainer.settings import Exact, Precision, Task

BF16_UNITS = "amx_bf16", "avx512_bf16"  # of CPUs, as torch names them
AUTO = {"classification": "AutoModelForSequenceClassification", "causal": "AutoModelForCausalLM"}


def load_tokenizer(location: Path) -> Any:
    """The tokenizer of a model's folder or GGUF file, with a padding token even where the model never had one.

    Raises:
        InputError: no usable tokenizer there.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(*_place(location)[0], **_place(location)[1])
    # The libraries behind tokenizers raise many classes on a file that they cannot use, bare Exceptions among them.
    except Exception as error:
        raise InputError(f"{location}: no usable tokenizer: {first_line(error) or type(error).__name__}") from None
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"{location}: the tokenizer has neither a padding nor an end-of-text token; set pad_token in its files"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _place(location: Path) -> tuple[tuple[Path], dict[str, str]]:
    """What transformers' from_pretrained takes for a folder or a GGUF file."""
    return ((location.parent,), {"gguf_file": location.name}) if location.suffix == GGUF else ((location,), {})


def resolved(precision: Precision) -> Exact:
    """The precision that `auto` stands for on this machine: bf16 where the hardware has units for it."""
    if precision == "auto":
        return "bf16" if has_bf16_units() else "fp32"
    return precision


def has_bf16_units() -> bool:
    """Whether products in bf16 are faster than in single precision on this machine."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch we support
    return any(capabilities.get(name, False) for name in BF16_UNITS)


def load_model(
    checkpoint: Checkpoint,
    task: Task,
    labels: tuple[str, ...],
    seed: int,
    pad_token_id: int | None = None,
    precision: Exact = "fp32",
) -> Any:
    """Load a pretrained model with the head that its task needs; a new head's weights depend on `seed` alone.

    Args:
        checkpoint: where the weights are.
        task: what it is to learn.
        labels: class names for classification.
        seed: seed for a new head.
        pad_token_id: the tokenizer's, for models that do not say.
        precision: precision of the weights, and so of what is computed with them; a new head's is always float32.

    Raises:
        InputError: a folder that transformers cannot load for this task.
    """
    if checkpoint.config.get("is_encoder_decoder"):
        raise InputError(
            f"{checkpoint.location}: an encoder-decoder model ({checkpoint.config['model_type']}), which cannot be trained yet"
        )
    # Right before loading, so that a new head depends on the seed and on nothing that was drawn before.
    transformers.set_seed(seed)
    options: dict[str, Any] = {"dtype": torch.bfloat16 if precision == "bf16" else torch.float32}
    if task == "classification":
        # A checkpoint may bring a head for other labels; it is replaced by a new one instead of stopping the loading.
        options |= {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "ignore_mismatched_sizes": True}
        options["label2id"] = {label: position for position, label in enumerate(labels)}
    place, gguf = _place(checkpoint.location)
    # Older releases have no such setting, and always dequantise.
    if gguf and (made := getattr(transformers, "GgufConfig", None)):
        options["quantization_config"] = made(dequantize=True)
    try:
        model, loading = getattr(transformers, AUTO[task]).from_pretrained(*place, **gguf, **options, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{checkpoint.location}: cannot be loaded for {task}: {first_line(error)}") from None
    if gguf:
        _forget_quantisation(model)
    # transformers would give a bare encoder a random output layer and only warn; here nothing would ever train it.
    if task == "causal" and (new := sorted(loading["missing_keys"])):
        raise InputError(
            f"{checkpoint.location}: no causal language model: its checkpoint lacks {new[0]!r}; add a label column to classify"
        )
    _require_finite(model, checkpoint)
    if precision == "bf16":
        _keep_head_precise(model)
    if model.config.pad_token_id is None:  # a classifier on a decoder finds the last token by it
        model.config.pad_token_id = pad_token_id
    use_products(model)
    use_fused_norms(model)
    return model


def _forget_quantisation(model: Any) -> None:
    """Make an ordinary model of one whose weights have been dequantised: transformers would refuse to train and to save it."""
    for name in ("is_quantized", "hf_quantizer", "quantization_method"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _require_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{checkpoint.location}: weight {name!r} holds {int((~torch.isfinite(parameter)).sum())} NaN or infinite values"
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
