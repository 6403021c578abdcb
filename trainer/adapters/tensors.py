"""The trained tensors: out of a model, into a file, and back."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from spectra import InputError
from spectra.checkpoint.tensor_files import opened
from spectra.core.errors import first_line
from trainer.adapters.peft import PREFIX, from_peft
from trainer.layers.expert_lora import expert_loras
from trainer.layers.offset import offset_mixtures, restore_start


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Every trainable tensor by name, on the CPU, and the starting values of experts that did not start at zero."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in _trained(model).items()}


def _trained(model: nn.Module) -> dict[str, Tensor]:
    starts = {f"{name}.{part}": getattr(layer, part) for name, layer in offset_mixtures(model).items() for part in ("A0", "B0")}
    # Padded tensors are in `named_parameters` as well; they go by identity, and their unpadded copies take their place.
    padded = {id(parameter) for lora in expert_loras(model).values() for parameter in lora.parameters()}
    plain = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad and id(tensor) not in padded}
    unpadded = {f"{name}.{key}": value for name, lora in expert_loras(model).items() for key, value in lora.unpadded().items()}
    return plain | unpadded | starts


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        InputError: the file is unreadable, or holds values that are not finite.
    """
    with opened(path, "pt") as stored:
        tensors: dict[str, Tensor] = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name!r} holds NaN or infinite values")
    return tensors


def load_state(path: Path, model: nn.Module) -> None:
    """Fill a model's trainable tensors from a file.

    Args:
        path: a checkpoint's or a run's tensors, in the model's names or in PEFT's.
        model: as built from the plan.

    Raises:
        InputError: the file is unreadable, or its tensors are not exactly the model's trainable ones.
    """
    stored: Mapping[str, Tensor] = read_state(path)
    if any(name.startswith(PREFIX) for name in stored):
        try:
            stored = from_peft(model, stored)
        except (RuntimeError, IndexError, ValueError) as error:  # tensors of other dimensions
            raise InputError(f"{path}: its tensors have other shapes than the plan says: {first_line(error)}") from None
    # The model's own parameters, and copies where experts are padded: what those stand for is filled below.
    wanted = _trained(model)
    if odd := sorted(stored.keys() ^ wanted.keys()):
        where = "in the file but not in the model" if odd[0] in stored else "in the model but not in the file"
        raise InputError(f"{path}: tensor {odd[0]!r} is {where}")
    # All of them before the first is copied: a refusal leaves the model as it was.
    for name, parameter in wanted.items():
        if stored[name].shape != parameter.shape:
            raise InputError(f"{path}: {name!r} has shape {list(stored[name].shape)}, the model {list(parameter.shape)}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            # Starting values are left alone: `restore_start` needs those of this model to know what to give back to the base.
            if not name.endswith((".A0", ".B0")):
                parameter.copy_(stored[name])
    for name, lora in expert_loras(model).items():
        lora.load_unpadded({key: stored[f"{name}.{key}"] for key in lora.unpadded()})
    for name, layer in offset_mixtures(model).items():
        restore_start(layer, stored[f"{name}.A0"], stored[f"{name}.B0"])
