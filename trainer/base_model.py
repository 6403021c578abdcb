"""Loading the base model for a task, and telling its head from its body."""

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from planner.modules.attention import use_products
from planner.modules.norms import use_fused_norms
from spectra import Checkpoint, InputError
from spectra.checkpoint.gguf_file import SUFFIX as GGUF
from spectra.core.files import read_json, require_regular
from spectra.core.log import LOG
from trainer.settings import Exact, Precision, Task

BF16_UNITS = "amx_bf16", "avx512_bf16"  # of CPUs, as torch names them
READ_BY_TRANSFORMERS = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin")
# The memory that a configuration may ask for, by what the checkpoint has: codes of 4 bits are packed 8 to a stored number, and a
# new head or a tied matrix adds to it.
MOST_PER_STORED, MOST_MORE = 16, 2**24
MOST_LABELS = 2**20  # transformers makes a list of as many as a configuration says
TRIED: tuple[dict[str, Any], ...] = ({}, {"add_special_tokens": False}, {"truncation": True, "max_length": 4})
AUTO = {"classification": "AutoModelForSequenceClassification", "causal": "AutoModelForCausalLM"}


def load_tokenizer(location: Path, chat_template: str | None = None) -> Any:
    """The tokenizer of a model's folder or GGUF file, with a padding token even where the model never had one.

    Args:
        location: the folder or file.
        chat_template: text of a chat template that takes the place of its own.

    Raises:
        InputError: no usable tokenizer there.
    """
    _require_files(location)
    place, gguf = _place(location)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(*place, **gguf, trust_remote_code=False)
    # The libraries behind tokenizers raise many classes on a file that they cannot use, bare Exceptions among them.
    except Exception as error:
        raise InputError(f"{location}: no usable tokenizer: {_reason(location, error)}") from None
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"{location}: the tokenizer has neither a padding nor an end-of-text token; set pad_token in its files"
            )
        tokenizer.pad_token = tokenizer.eos_token
    try:
        # What will be asked of it: a broken one fails here, and not in the middle of a run.
        parts = [tokenizer(["a b", "a"], verbose=False, **how)["input_ids"] for how in TRIED]
        tokenizer.pad({"input_ids": parts[0]}, return_tensors="pt")
        tokenizer.batch_decode(parts[0], skip_special_tokens=True)
    except Exception as error:  # as above
        raise InputError(f"{location}: its tokenizer fails on a text: {_reason(location, error)}") from None
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


def _require_files(location: Path) -> None:
    """Refuse a pipe or a device where a model has a file, because transformers would wait for it."""
    if location.is_dir():
        for file in location.iterdir():
            if file.suffix in READ_BY_TRANSFORMERS and not file.is_dir():
                require_regular(file)
        config = read_json(location / "config.json") if (location / "config.json").exists() else {}
        labels = config.get("num_labels") if isinstance(config, dict) else None
        if isinstance(labels, int) and labels > MOST_LABELS:
            raise InputError(f"{location / 'config.json'}: num_labels {labels:,} is more than any model has")


def _reason(location: Path, error: Exception) -> str:
    """Why transformers cannot load something, in one line."""
    folder = location if location.is_dir() else location.parent
    if "trust_remote_code" in str(error):
        code = ", ".join(sorted(file.name for file in folder.glob("*.py"))) or "a module on the Hub"
        return f"it needs code of its own ({code}), and loraplan runs no code that comes with a model"
    if isinstance(error, MemoryError):
        return "not enough memory"
    # Some libraries say on the first line only that something failed, and what on the second.
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


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


def on_device(model: Any) -> Any:
    """The model on a GPU, if there is one; a quantised one is where its loader has put it."""
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model.to("cuda")
    return model


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
    _require_files(checkpoint.location)
    _require_own_weights(checkpoint)
    auto = getattr(transformers, AUTO[task])
    try:
        _require_size(checkpoint, auto)
        model, loading = auto.from_pretrained(*place, **gguf, **options, trust_remote_code=False, output_loading_info=True)
    except InputError:
        raise
    # A configuration may hold anything, and so transformers may raise anything.
    except Exception as error:
        raise InputError(f"{checkpoint.location}: cannot be loaded for {task}: {_reason(checkpoint.location, error)}") from None
    if gguf:
        _forget_quantisation(model)
    _require_whole(model, loading, checkpoint, task)
    _require_finite(model, checkpoint)
    _require_runs(model, checkpoint)
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


def _require_own_weights(checkpoint: Checkpoint) -> None:
    """Refuse a folder from which transformers would load other weights than those that were analysed."""
    if (adapter := checkpoint.folder / "adapter_config.json").exists() and not checkpoint.gguf:
        raise InputError(f"{adapter}: transformers would add this adapter to the model; move it out of the model's folder")
    if named := checkpoint.config.get("transformers_weights"):
        raise InputError(f"{checkpoint.folder / 'config.json'}: transformers_weights {named!r} names other weights; remove it")


def _require_size(checkpoint: Checkpoint, auto: Any) -> None:
    """Refuse a configuration of a much larger model than the checkpoint has weights for, before any memory is taken."""
    stored = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
    layers = checkpoint.config.get("num_hidden_layers") or checkpoint.config.get("n_layer") or 0
    if isinstance(layers, int) and layers > len(checkpoint.tensors):
        raise InputError(
            f"{checkpoint.location}: its configuration has {layers:,} layers, its weights {len(checkpoint.tensors):,} tensors"
        )
    if checkpoint.gguf:
        return
    config = transformers.AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    with torch.device("meta"):  # shapes without values
        asked = sum(parameter.numel() for parameter in auto.from_config(config, trust_remote_code=False).parameters())
    if asked > MOST_PER_STORED * stored + MOST_MORE:
        raise InputError(f"{checkpoint.location}: its configuration asks for {asked:,} weights, and {stored:,} are stored")


def _require_whole(model: Any, loading: dict[str, Any], checkpoint: Checkpoint, task: Task) -> None:
    """Refuse a model of which a part outside a new head has random weights; transformers only warns."""
    new = head(model)
    for name in sorted({*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])} - new.keys()):
        if "pooler" in name.split("."):
            # Language models are published without what a classifier pools with.
            LOG.warning(f"{checkpoint.name}: {name!r} is not in the checkpoint; it has random weights, which stay as they are")
            continue
        if name not in loading["missing_keys"]:
            raise InputError(f"{checkpoint.location}: {name!r} has another shape in the checkpoint than its configuration says")
        if task == "causal":
            raise InputError(
                f"{checkpoint.location}: no causal language model: its checkpoint lacks {name!r}; add a label column to classify"
            )
        raise InputError(f"{checkpoint.location}: its checkpoint lacks {name!r}, which its configuration asks for")


@torch.no_grad()
def _require_runs(model: Any, checkpoint: Checkpoint) -> None:
    """Refuse a model that a configuration has made unable to answer, on eight tokens."""
    flash = "flash" in str(getattr(model.config, "_attn_implementation", ""))
    quantised = getattr(model, "is_quantized", False) and torch.cuda.is_available()
    if flash or quantised or model.device.type != "cpu":
        return  # kernels of a GPU, which the model may not be on yet
    training = model.training
    try:
        ids = torch.arange(8)[None] % int(model.config.get_text_config().vocab_size)
        with torch.random.fork_rng(devices=[]):  # dropout draws, and a run's own draws are not to be moved
            model.train()(input_ids=ids, attention_mask=torch.ones_like(ids))
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except Exception as error:  # as above
        if "multiple of 16 bytes" in str(error):
            return  # torch's grouped products of narrow experts in half precision, which adapted experts do without
        reason = _reason(checkpoint.location, error)
        raise InputError(f"{checkpoint.location}: the model cannot run as its configuration says: {reason}") from None
    finally:
        model.train(training)
    if not torch.isfinite(logits).all():
        raise InputError(
            f"{checkpoint.location}: the model's answers are not finite; its weights or its configuration are damaged"
        )


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
