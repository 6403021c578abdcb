"""What a run says of its routers and experts: collapsed, overflowing, or without anything learned."""

import math

import torch
from torch import nn

from trainer.layers.expert_lora import NAME, expert_loras
from trainer.layers.mixture import mixtures
from trainer.layers.offset import offset_mixtures
from trainer.report import RouterHealth

SHOWN = 8
OVERFLOWING = 0.25  # share of picks that capacity limits turn away, from which on a reader should know
COLLAPSED = 0.95  # share of the gates' mass from which on one expert does all the work


def idle_experts(model: nn.Module) -> tuple[str, ...]:
    """`SITE, expert N` for LoRA experts of mixtures, and the name of every routed expert of the base that was planned to learn.

    Their B is as it started, zero: no gradient ever reached it. Modules whose B does not start at zero are left out, because
    nothing can be read off them.
    """
    found = []
    for name, mixture in mixtures(model).items():
        if name in offset_mixtures(model):
            continue
        # (E,): the largest element of each expert's columns of B.
        parts = [
            part.abs().amax() if part.numel() else None for part in torch.split(mixture.B.detach(), list(mixture.ranks), dim=1)
        ]
        idle = [expert for expert, largest in enumerate(parts) if largest is not None and not bool(largest)]
        found += [f"{name}, expert {expert}" if len(parts) > 1 else name for expert in idle]
    for name, lora in expert_loras(model).items():
        moved = {part: lora.B[part].detach().abs().amax((1, 2)).tolist() for part in lora.ranks}
        for expert in range(len(next(iter(lora.ranks.values()), []))):
            planned = [part for part, ranks in lora.ranks.items() if ranks[expert]]
            if planned and not any(moved[part][expert] for part in planned):
                found.append(f"{name.removesuffix('.' + NAME)}.{expert}")
    return tuple(found)


def told_idle(idle: tuple[str, ...], model: nn.Module) -> tuple[str, ...]:
    """A note, if there are any."""
    if not idle:
        return ()
    there = sum(sum(map(bool, mixture.ranks)) for mixture in mixtures(model).values())
    there += sum(any(ranks) for lora in expert_loras(model).values() for ranks in zip(*lora.ranks.values(), strict=True))
    more = f", and {len(idle) - SHOWN} more" if len(idle) > SHOWN else ""
    return (f"{len(idle)} of {there} experts learned nothing, their B is still zero: {'; '.join(idle[:SHOWN])}{more}",)


def overflowing(health: tuple[RouterHealth, ...]) -> tuple[str, ...]:
    """A note where capacity limits turn most picks away."""
    found = [site for site in health if not math.isnan(site.dropped)]
    if not found or (dropped := sum(site.dropped for site in found) / len(found)) <= OVERFLOWING:
        return ()
    unserved = sum(site.unserved for site in found) / len(found)
    return (
        f"capacity limits turned away {dropped:.1%} of picks, and {unserved:.1%} of tokens got no expert at all; a larger"
        " `capacity` or a smaller `expert_dropout` lets more through",
    )


def collapsed(health: tuple[RouterHealth, ...]) -> tuple[str, ...]:
    """A note for every mixture in which one expert does all the work."""
    return tuple(
        f"the router of {site.site} has collapsed: expert {site.shares.index(max(site.shares))} carries {max(site.shares):.0%};"
        " a `balance_loss` of 0.01 or `router` constant spreads the work"
        for site in health
        # No setting of ours spreads the work of the base's own routers, whose entropy is not known.
        if max(site.shares) > COLLAPSED and not math.isnan(site.entropy)
    )
