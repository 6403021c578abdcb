"""Plans without routers in PEFT's terms: one LoRA per module, of its own rank."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from planner import Plan
from trainer.build import mixtures

PREFIX = "base_model.model."
TASKS = {"classification": "SEQ_CLS", "causal": "CAUSAL_LM"}


def is_stock(plan: Plan) -> bool:
    """Whether PEFT's LoRA can express the plan: something is adapted, and no module has a choice of experts."""
    counts = {len(site.ranks) for site in plan.sites}
    return counts <= {0, 1} and 1 in counts and not any(site.routed for site in plan.sites if site.ranks)


def stock_config(plan: Plan, base: str, kind: str, heads: Sequence[str], *, doubled: bool) -> dict[str, Any]:
    """PEFT's adapter_config.json, with lora_alpha = r at every module.

    Args:
        plan: one that `is_stock`.
        base: the base model.
        kind: of task.
        heads: names of a new head's parameters.
        doubled: whether adapters also carry what was subtracted from the base.
    """
    ranks = {site.name: site.ranks[0] * (1 + doubled) for site in plan.sites if site.ranks}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": TASKS[kind],
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(ranks),
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "modules_to_save": sorted({name.rpartition(".")[0].partition(".")[0] for name in heads}) or None,
    }


def to_stock(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors in PEFT's names, each B multiplied with its scaling.

    Where an expert did not start at zero, what was subtracted from the base for it is added as further ranks, because PEFT starts
    from the original base.

    Args:
        model: whose mixtures have one expert each.
        state: its trained tensors by live name.
    """
    found = dict(state)
    for name, mixture in mixtures(model).items():
        (scaling,) = mixture.scalings
        A, B = found.pop(f"{name}.A"), found.pop(f"{name}.B")
        if f"{name}.A0" in found:
            A, B = torch.cat([A, found.pop(f"{name}.A0")]), torch.cat([B, -found.pop(f"{name}.B0")], dim=1)
        found[f"{name}.lora_A.weight"] = A
        found[f"{name}.lora_B.weight"] = (B.double() * scaling).to(B.dtype)
    return {PREFIX + name: tensor for name, tensor in found.items()}


def from_stock(model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back; names that are not there stay missing, and are reported by the caller."""
    found = {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()}
    for name, mixture in mixtures(model).items():
        if f"{name}.lora_A.weight" in found and f"{name}.lora_B.weight" in found:
            (scaling,) = mixture.scalings
            A = found.pop(f"{name}.lora_A.weight")
            B = (found.pop(f"{name}.lora_B.weight").double() / scaling).to(mixture.B.dtype)
            rank = mixture.ranks[0]
            found |= {f"{name}.A": A[:rank], f"{name}.B": B[:, :rank]}
            if hasattr(mixture, "A0"):
                found |= {f"{name}.A0": A[rank:], f"{name}.B0": -B[:, rank:]}
    return found
