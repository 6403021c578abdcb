"""`plan merge`: a run without routers as an ordinary checkpoint, every adapter folded into its weight."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planner.modules.linear import add_to_weight
from spectra import InputError
from spectra.core.errors import first_line
from spectra.core.files import require_place
from trainer.adapters.config import load_config
from trainer.adapters.reference_logits import TOLERANCE, disagreement, reference_logits
from trainer.adapters.store import find_base, load_adapters
from trainer.base_model import load_tokenizer
from trainer.data.chat.writer import Writer
from trainer.layers.base_routers import settle_routers
from trainer.layers.expert_lora import NAME as EXPERTS
from trainer.layers.expert_lora import expert_loras, fold
from trainer.layers.mixture import mixtures


def merge(run: str | Path, output: str | Path, *, base: str | Path | None = None) -> Path:
    """Write a run's model with its adapters folded in, in Hugging Face layout, tokenizer included.

    Args:
        run: what `plan train` wrote, of a plan without routers.
        output: a folder that is not there yet.
        base: the base model, if it has moved.

    Returns:
        The folder.

    Raises:
        InputError: a mixture with a router, an output that exists, or logits that changed by more than rounding.
    """
    output = Path(output)
    if require_place(output).exists():
        raise InputError(f"{output}: already exists; choose another folder")
    # In single precision, whatever the run's was: folded into half precision, small updates would be lost.
    model = load_adapters(run, base)
    # `merged` works in place, so the logits of the unmerged model have to be taken first.
    before = reference_logits(model)
    # "Not small" instead of "large", so that logits of NaN fail as well.
    if not (error := disagreement(reference_logits(merged(model)), before)) <= TOLERANCE["fp32"]:
        raise InputError(f"{run}: merging changes logits by {error:.3g} of the largest; nothing was written")
    # Written beside and renamed, so that a full disk leaves no half of a model under the name that was asked for.
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        config = load_config(run)
        tokenizer = load_tokenizer(find_base(config, base).location, config.chat_template)
        if config.conversations:
            _stop_at(model, tokenizer, Writer(tokenizer, config.data).end_of_answers())
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        beside.rename(output)
    except InputError:
        raise
    # transformers, tokenizers and safetensors each have errors of their own for a disk or a name that they cannot write to.
    except Exception as fault:
        raise InputError(f"{output}: cannot write: {getattr(fault, 'strerror', None) or first_line(fault)}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return output


def _stop_at(model: Any, tokenizer: Any, end: str) -> None:
    """Let generation stop where the run's answers end, which the base's settings may not know."""
    settings = model.generation_config
    if not end or settings is None:
        return
    own = settings.eos_token_id
    known = own if isinstance(own, list) else [own] if own is not None else []
    number = tokenizer.convert_tokens_to_ids(end)
    if number not in known:
        settings.eos_token_id = [*known, number]


@torch.no_grad()
def merged(model: Any) -> Any:
    """Fold every adapter into its base layer's weight, in place, and put the base layers back.

    Raises:
        InputError: a site with a router, whose effect depends on the token, or a quantised base.
    """
    for name, mixture in mixtures(model).items():
        weight = mixture.base.weight
        assert isinstance(weight, Tensor)
        # A mixture with a router is left to `delta_weight`, whose refusal says more, whatever its base is.
        if mixture.router is None and not weight.is_floating_point():
            raise InputError(f"site {name!r}: its base is quantised; load the model unquantised to merge")
        add_to_weight(mixture.base, mixture.delta_weight())
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, mixture.base)
    settle_routers(model)
    for name in expert_loras(model):
        fold(model.get_submodule(name.removesuffix("." + EXPERTS)))
    return model
