"""The frozen base split among processes; the adapters stay whole.

With adapters nearly all memory is the base's weights, and they never change: only they are sharded (FSDP2), layer by layer,
gathered when a layer runs and dropped after it. What is trained is small. It stays on every process as plain tensors, its
gradients averaged as in DDP, so that saving, resuming and growth need to know nothing of shards.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from spectra import InputError


def shard(model: Any, device: torch.device, processes: int) -> None:
    """Split a model's frozen parameters among all processes, in place, and put the rest on the device.

    Args:
        model: a transformers model whose trainable parameters are its adapters and its head.
        device: this process's.
        processes: how many there are.

    Raises:
        InputError: only one process, a quantised base, or a model that does not say which of its modules are layers.
    """
    if processes == 1:
        raise InputError(
            "`shard` splits the frozen weights among processes, and there is one; start with torchrun --nproc-per-node N"
        )
    if odd := next((name for name, p in model.named_parameters() if not p.requires_grad and not p.is_floating_point()), None):
        raise InputError(f"`shard`: {odd!r} is quantised; quantised weights cannot be split")
    # transformers names there the classes that must stay on one device: its way of saying what a layer is.
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise InputError(f"`shard`: {type(model).__name__} does not say which of its modules are layers")
    mesh = init_device_mesh(device.type, (processes,))
    # Known by identity, so whatever replaces adapters (growth) has to have happened by now.
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    # Layers before the model: what no layer has taken, such as embeddings, is left for the model's own shard.
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, ignored_params=whole)
    # fully_shard moves to the device what it manages, and that leaves out what it was told to ignore.
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has been here."""
    return isinstance(model, FSDPModule)


def averaged(model: nn.Module, whole: nn.Module) -> DistributedDataParallel:
    """Wrap a sharded model so that the gradients of its plain parameters are averaged over the processes.

    Args:
        model: sharded, perhaps already prepared for mixed precision.
        whole: the same model; its frozen parameters are left to FSDP.
    """
    frozen = [name for name, parameter in whole.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in whole.named_buffers()]  # constants, the same everywhere from the start
    # Private, but torch's only way to leave parameters to FSDP: DDP would broadcast all of them at its start, shards included.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(model)
