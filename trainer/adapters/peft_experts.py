"""Adapters of routed experts in PEFT's layout: one LoRA per stored 3-D tensor (`target_parameters`).

PEFT gives every expert of a tensor the same rank and stores all of them in two flat matrices: A expert by expert, B with the
expert as its last, fastest index. A tensor that fuses gate and up takes both projections' ranks side by side, each seeing its
own outputs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from planner.modules.fused_experts import fused_parts
from trainer.layers.expert_lora import NAME, ExpertLora, expert_loras


def tensor_ranks(model: nn.Module) -> dict[str, int]:
    """Stored tensor of experts, by live name -> the rank that PEFT needs for it."""
    return {f"{name}.{tensor}": sum(ranks.values()) for name, _, _, tensor, ranks in _tensors(model)}


def experts_to_peft(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the experts' trained tensors by PEFT's.

    Args:
        model: whose experts have one rank per layer and projection.
        state: trained tensors by live name.

    Returns:
        The same, experts' under PEFT's names, each B multiplied with its scaling.
    """
    found = dict(state)
    for name, experts, lora, tensor, ranks in _tensors(model):
        count = len(experts.down_proj)
        # (E, rank, d_in) of each part; A and B of the stored tensor have the ranks of its parts one behind the other.
        A = [found.pop(f"{name}.{NAME}.{part}.A").view(count, rank, -1) for part, rank in ranks.items()]
        # (E, outputs of the whole tensor, ranks of all parts): a part's columns are zero in the other part's outputs.
        B = A[0].new_zeros(count, _outputs(experts, tensor), sum(ranks.values()))
        for part, columns in _columns(ranks):
            # Ours is (d_out, E rank), experts in order; view and permute make it (E, d_out, rank).
            given = found.pop(f"{name}.{NAME}.{part}.B").view(-1, count, ranks[part]).permute(1, 0, 2)
            B[:, fused_parts(experts)[tensor][part], columns] = given * lora.scaling(part).to(given)[:, None, None]
        lead = f"{name}{_nesting(experts, lora, tensor)}"
        # PEFT reads A as (E, rank, d_in), flattened expert by expert, and B as (d_out, rank, E), with the expert fastest.
        found[f"{lead}.lora_A.weight"] = torch.cat(A, dim=1).flatten(0, 1)
        found[f"{lead}.lora_B.weight"] = B.permute(1, 2, 0).flatten(1).contiguous()
    return found


def experts_from_peft(model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The experts' trained tensors by live name, from PEFT's; what is not there stays missing, and the caller reports it."""
    found = dict(stored)
    for name, experts, lora, tensor, ranks in _tensors(model):
        count, total = len(experts.down_proj), sum(ranks.values())
        lead = f"{name}{_nesting(experts, lora, tensor)}"
        if f"{lead}.lora_A.weight" not in found or f"{lead}.lora_B.weight" not in found:
            continue
        A = found.pop(f"{lead}.lora_A.weight").view(count, total, -1)
        B = found.pop(f"{lead}.lora_B.weight").view(-1, total, count).permute(2, 0, 1)
        for part, columns in _columns(ranks):
            mine = B[:, fused_parts(experts)[tensor][part], columns] / lora.scaling(part).to(B)[:, None, None]
            found[f"{name}.{NAME}.{part}.A"] = A[:, columns].flatten(0, 1)
            found[f"{name}.{NAME}.{part}.B"] = mine.permute(1, 0, 2).flatten(1)
    return found


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any, ExpertLora, str, dict[str, int]]]:
    """Name of the experts, the experts, their adapters, a stored tensor, and the rank of each of its adapted projections."""
    for adapter, lora in expert_loras(model).items():
        name = adapter.removesuffix(f".{NAME}")
        experts = model.get_submodule(name)
        for tensor, parts in fused_parts(experts).items():
            # The first expert's rank is everybody's, or the plan would not be PEFT-compatible and nobody would ask.
            ranks = {part: lora.ranks[part][0] for part in parts if part in lora.ranks}
            if ranks:
                yield name, experts, lora, tensor, ranks


def _columns(ranks: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    start = 0
    for part, rank in ranks.items():
        yield part, slice(start, start + rank)
        start += rank


def _outputs(experts: Any, tensor: str) -> int:
    return int(getattr(experts, tensor).shape[2 if experts.is_transposed else 1])


def _nesting(experts: Any, lora: ExpertLora, tensor: str) -> str:
    """PEFT wraps the module once per adapted tensor, in the order of its parameters: earlier ones lie deeper."""
    adapted = [name for name, parts in fused_parts(experts).items() if any(part in lora.ranks for part in parts)]
    # PEFT walks through `named_parameters` and wraps each time what it has wrapped so far: the last one is outermost and has no
    # `base_layer`.
    order = [name for name, _ in experts.named_parameters(recurse=False) if name in adapted]
    return ".base_layer" * (len(order) - 1 - order.index(tensor))
