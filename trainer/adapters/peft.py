"""Plans without routers in PEFT's terms: one LoRA per module, of its own rank, and one per stored tensor of routed experts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from planner import Plan
from spectra.checkpoint.families import EXPERT_PROJECTIONS
from spectra.checkpoint.names import parse_name, projection_type
from trainer.adapters.peft_experts import experts_from_peft, experts_to_peft
from trainer.layers.mixture import mixtures

PREFIX = "base_model.model."
# In a model with routed experts PEFT takes every module of these names for one of theirs, dense layers and shared experts
# included; naming their weight instead leaves no doubt.
OF_EXPERTS = tuple(f".{name}" for name in EXPERT_PROJECTIONS)
TASKS = {"classification": "SEQ_CLS", "causal": "CAUSAL_LM"}


def is_peft_compatible(plan: Plan) -> bool:
    """Whether PEFT's LoRA can express the plan.

    Something is adapted, no module has a choice of LoRA experts, and all routed experts of a layer have the same ranks.
    """
    counts = {len(site.ranks) for site in plan.sites}
    # The ranks that occur per layer and projection: PEFT has one rank for a stored tensor, so all its experts need the same.
    experts: dict[object, set[tuple[int, ...]]] = {}
    for site in plan.sites:
        if site.routed and (where := parse_name(site.name)):
            experts.setdefault((where.stack, where.layer, projection_type(site.name)), set()).add(site.ranks)
    return counts <= {0, 1} and 1 in counts and all(len(ranks) == 1 for ranks in experts.values())


def peft_config(
    plan: Plan, base: str, task: str, heads: Sequence[str], experts: Mapping[str, int], *, doubled: bool
) -> dict[str, Any]:
    """PEFT's adapter_config.json, with lora_alpha = r at every module.

    Args:
        plan: one that `is_peft_compatible`.
        base: the base model.
        task: what the run learns.
        heads: names of a new head's parameters.
        experts: stored tensors of routed experts and their ranks.
        doubled: whether adapters also carry what was subtracted from the base.
    """
    # A site of routed experts is part of a stored tensor and comes in with `experts`.
    modules = {site.name: site.ranks[0] * (1 + doubled) for site in plan.sites if site.ranks and not site.routed}
    taken = {name for name in modules if experts and name.endswith(OF_EXPERTS)}
    parameters = dict(experts) | {f"{name}.weight": modules.pop(name) for name in sorted(taken)}
    ranks = modules | parameters
    # The most frequent rank becomes `r`, so that the patterns list exceptions only.
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": TASKS[task],
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "target_parameters": sorted(parameters) or None,
        "rank_pattern": odd,
        # The same numbers once more: lora_alpha / r is 1 at every module, and B carries the scaling.
        "alpha_pattern": odd,
        # PEFT saves a head whole, under the name of its outermost module.
        "modules_to_save": sorted({name.rpartition(".")[0].partition(".")[0] for name in heads}) or None,
    }


def to_peft(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors in PEFT's names, each B multiplied with its scaling.

    Where an expert did not start at zero, what was subtracted from the base for it is added as further ranks, because PEFT starts
    from the original base.

    Args:
        model: whose mixtures have one expert each.
        state: its trained tensors by live name.
    """
    found = experts_to_peft(model, state)
    for name, mixture in mixtures(model).items():
        (scaling,) = mixture.scalings
        A, B = found.pop(f"{name}.A"), found.pop(f"{name}.B")
        # B A - B0 A0 as one product of twice the rank: [B, -B0] times A above A0.
        if f"{name}.A0" in found:
            A, B = torch.cat([A, found.pop(f"{name}.A0")]), torch.cat([B, -found.pop(f"{name}.B0")], dim=1)
        found[f"{name}.lora_A.weight"] = A
        # In double precision here and on the way back, so that B returns as it was but for one rounding each way.
        found[f"{name}.lora_B.weight"] = (B.double() * scaling).to(B.dtype)
    return {PREFIX + name: tensor for name, tensor in found.items()}


def from_peft(model: nn.Module, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors by live name, from those in PEFT's names; what is not there stays missing, and the caller reports it."""
    found = experts_from_peft(model, {name.removeprefix(PREFIX): tensor for name, tensor in stored.items()})
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
