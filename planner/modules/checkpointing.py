"""Gradient checkpointing without reentrance, for any transformers model and without its deprecated switches."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from spectra import InputError


def recompute(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Let every layer drop its activations and compute them again in the backward pass, when it is in training mode.

    Random numbers are replayed, so a recomputed router decides as it did at first. What it records it records twice, which
    changes no share.

    Returns:
        The layers that now do so.

    Raises:
        InputError: the model has no such layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(f"{type(model).__name__} does not support gradient checkpointing")
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    config: Any = getattr(model, "config", None)
    if config is not None:
        config.use_cache = False  # a layer computed again would find its own keys in the cache
    return layers
