"""The routed experts of a mixture-of-experts model as transformers 5 builds them: all experts of a layer in one 3-D tensor.

Layouts differ by family: gate and up stacked or interleaved, weights as (expert, out, in) or (expert, in, out), with or without
biases. This module reads that off live modules; how checkpoints store experts is told in spectra/checkpoint/families.py. A
projection of an expert is named as per-expert checkpoints name it: `...experts.7.gate_proj`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# watch(expert, tensor name, token of each row, inputs, outputs) -> outputs
Watch = Callable[[int, str, Tensor, Tensor, Tensor], Tensor]


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds all routed experts of a layer."""
    down = getattr(module, "down_proj", None)
    # transformers puts `is_transposed` and its kin on the classes whose experts have this layout; a 3-D parameter alone may be
    # anything.
    return isinstance(down, nn.Parameter) and down.ndim == 3 and hasattr(module, "is_transposed")


def fused_parts(module: Any) -> Mapping[str, Mapping[str, slice]]:
    """Stored tensor -> projection -> which of the tensor's outputs it is."""
    down = {"down_proj": {"down_proj": slice(None)}}
    if not module.has_gate:
        return {"up_proj": {"up_proj": slice(None)}} | down
    outputs = module.gate_up_proj.shape[2 if module.is_transposed else 1]  # (expert, in, out) or (expert, out, in)
    if module.is_concatenated:
        gate, up = slice(0, outputs // 2), slice(outputs // 2, outputs)
    else:
        gate, up = slice(0, None, 2), slice(1, None, 2)  # alternating, as in gpt-oss
    return {"gate_up_proj": {"gate_proj": gate, "up_proj": up}} | down


def router_of(model: nn.Module, experts: str) -> nn.Module | None:
    """The base model's router of a layer of routed experts: the module beside them with a row of weights for each.

    Args:
        model: the whole model.
        experts: the experts' name in it.
    """
    count = len(model.get_submodule(experts).down_proj)  # type: ignore[arg-type]  # a 3-D tensor
    for child in model.get_submodule(experts.rpartition(".")[0]).children():
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and len(weight) == count:
            return child
    return None


def expert_weight(module: Any, expert: int, tensor: str, part: slice = slice(None)) -> Tensor:
    """One expert's matrix, or a part of its outputs, as (d_out, d_in)."""
    stored: Tensor = getattr(module, tensor)[expert]
    return (stored.T if module.is_transposed else stored)[part]


def expert_sites(module: Any) -> Mapping[str, tuple[int, int]]:
    """`7.gate_proj` -> (d_out, d_in), for every expert and projection."""
    shapes = {
        part: tuple(expert_weight(module, 0, tensor, outputs).shape)
        for tensor, parts in fused_parts(module).items()
        for part, outputs in parts.items()
    }
    # One tensor holds all experts, so the first one's shapes are everybody's.
    experts = len(module.down_proj)
    return {f"{expert}.{part}": shape for expert in range(experts) for part, shape in sorted(shapes.items())}  # type: ignore[misc]


def run_experts(module: Any, hidden: Tensor, index: Tensor, weights: Tensor, watch: Watch) -> Tensor:
    """Compute the module's own forward, expert by expert, showing every projection to `watch`.

    Args:
        module: one that `is_experts`.
        hidden: (tokens, d).
        index: (tokens, k), the chosen experts.
        weights: (tokens, k), their routing weights.
        watch: may replace a projection's outputs.

    Returns:
        (tokens, d).
    """
    total = torch.zeros_like(hidden)
    up_tensor = "gate_up_proj" if module.has_gate else "up_proj"
    for expert in torch.unique(index).tolist():
        if expert >= len(module.down_proj):  # expert parallelism marks other processes' tokens so
            continue
        token, slot = torch.where(index == expert)
        x = hidden[token]
        up = watch(expert, up_tensor, token, x, _project(module, expert, up_tensor, x))
        # The family's own function, because some do more than activate and multiply (gpt-oss clamps).
        inner = module._apply_gate(up) if module.has_gate else module.act_fn(up)
        out = watch(expert, "down_proj", token, inner, _project(module, expert, "down_proj", inner))
        if getattr(module, "has_post_expert_norm", False):  # newer than the oldest transformers that we support
            out = module.post_expert_norm(out)
        # Routing weights may be of higher precision than the hidden states; transformers rounds at the same place.
        total = total.index_add(0, token, (out * weights[token, slot, None]).to(total.dtype))
    return total


def _project(module: Any, expert: int, tensor: str, x: Tensor) -> Tensor:
    bias = getattr(module, f"{tensor}_bias")[expert] if module.has_bias else None
    return nn.functional.linear(x, expert_weight(module, expert, tensor), bias)
