"""DR-LoRA's growth: routed experts start with little rank and earn more while they train (arXiv 2601.04823).

The saliency of expert i in a layer is S_i = f_i g_i / (r_i + 1)^gamma. f is a moving average of the share of routing weight that
the expert gets, g one of how much the loss pulls on its adapters: per rank dimension |sum A dA| |sum B dB|, averaged over the
active dimensions and the adapted projections. At events spread over the growth window each layer hands out its quota one rank at
a time to the most salient expert, until every layer has exactly the rank that the plan gave it. The released code counts hard
top-2 picks and adds the two gradient terms, and its quota ends half-way through the window; this is the paper's form, and ends
where it says.

New directions change nothing when they start: A is random there, B zero, and their optimiser state has never been touched,
because until then both were zero and so were their gradients.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from planner import Plan
from planner.strategies.demand import GAMMA
from spectra import InputError
from spectra.sites import resolve
from spectra.values import read_json, write_atomic
from trainer.base_experts import ExpertLora, expert_loras
from trainer.reports import HISTORY, GrowthEvent, GrowthHistory

DECAY = 0.9  # of both moving averages
EVENTS = 18  # as many as the published schedule has
PER_EVENT = 0.1  # an expert gains at most this share of its room at one event
WARMUP = 0.03  # share of the run before the window
STATE, RANKS = "growth.safetensors", "growth-ranks.json"


def hand_out(worth: Sequence[float], ranks: Sequence[int], quota: int, *, most: int, per_event: int) -> list[int]:
    """Share a layer's quota: repeatedly one rank to the largest worth / (rank + 1)^gamma.

    Args:
        worth: f g of each expert.
        ranks: what each has.
        quota: ranks to hand out.
        most: the largest rank of an expert.
        per_event: the most that one expert may gain now.

    Returns:
        The new ranks; the quota may not be used up where limits forbid.
    """
    grown = list(ranks)
    for _ in range(quota):
        able = [e for e in range(len(grown)) if grown[e] < most and grown[e] - ranks[e] < per_event]
        if not able:
            break
        best = max(able, key=lambda e: (worth[e] / (grown[e] + 1) ** GAMMA, -e))
        grown[best] += 1
    return grown


@dataclass(slots=True)
class _Layer:
    """One layer's experts and what is known about them."""

    lora: ExpertLora
    target: int
    first: int
    most: int
    share: Tensor
    importance: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ranks(self) -> list[int]:
        return next(iter(self.lora.ranks.values()))

    def observe(self) -> None:
        """Update both averages from the gradients at hand."""
        seen = self.lora.take_routing()
        if seen is not None:
            self.share = DECAY * self.share + (1 - DECAY) * seen / seen.sum().clamp(min=1e-30)
        for part in self.lora.ranks:
            A, B = self.lora.A[part], self.lora.B[part]
            if A.grad is not None and B.grad is not None:
                pull = (A.grad * A).sum(2).abs() * (B.grad * B).sum(1).abs()
                self.importance[part] = DECAY * self.importance[part] + (1 - DECAY) * pull

    def worth(self) -> list[float]:
        """F g of each expert."""
        active = torch.tensor(self.ranks, device=self.share.device).clamp(min=1)
        gradient = torch.stack([scores.sum(1) / active for scores in self.importance.values()]).mean(0)
        return [float(value) for value in (self.share * gradient).double().cpu()]

    def grow(self, quota: int, per_event: int) -> None:
        grown = hand_out(self.worth(), self.ranks, quota, most=self.most, per_event=per_event)
        for part, ranks in self.lora.ranks.items():
            for expert, (before, after) in enumerate(zip(ranks, grown, strict=True)):
                if after > before:
                    self.lora.start(part, expert, slice(before, after))
            self.lora.ranks[part] = list(grown)


class Growth(TrainerCallback):
    """Grows the experts of a model while a Trainer trains it."""

    def __init__(self, model: nn.Module, plan: Plan, steps: int) -> None:
        """Take a model built from the plan back to its starting ranks.

        Args:
            model: from `apply_plan`; its experts' adapters are replaced by ones with room to grow.
            plan: says how much rank each layer ends with.
            steps: of the run.

        Raises:
            InputError: a plan without routed experts, or whose projections differ in total rank.
        """
        self.layers = {name: _prepare(name, lora) for name, lora in expert_loras(model).items()}
        if not self.layers:
            raise InputError(f"--grow: the plan {plan.strategy!r} adapts no routed experts, so there is nothing to grow")
        self.schedule = schedule(steps)
        self.history: list[GrowthEvent] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the gradients of every step up to the last event."""
        if state.global_step < self.schedule[-1]:
            with torch.no_grad():
                for layer in self.layers.values():
                    layer.observe()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hold the events that are due."""
        if state.global_step in self.schedule:
            self.event(self.schedule.index(state.global_step), state.global_step)

    def event(self, number: int, step: int) -> None:
        """Hand out every layer's quota: what brings it to its share of the way, exactly to the target at the last event."""
        saliency = {name: _saliency(layer) for name, layer in self.layers.items()}
        last = number == len(self.schedule) - 1
        for layer in self.layers.values():
            experts = len(layer.ranks)
            way = (layer.target - experts * layer.first) * (number + 1) // len(self.schedule)
            quota = experts * layer.first + way - sum(layer.ranks)
            limit = max(1, math.ceil(PER_EVENT * (layer.most - layer.first)))
            layer.grow(quota, layer.most if last else limit)
        self.history.append(
            GrowthEvent(
                step=step,
                ranks={name: tuple(layer.ranks) for name, layer in self.layers.items()},
                shares={name: tuple(layer.share.double().tolist()) for name, layer in self.layers.items()},
                saliency=saliency,
            )
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what a resumed run needs beside the Trainer's own state."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        tensors = {f"{name}/share": layer.share for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            tensors |= {f"{name}/{part}": scores for part, scores in layer.importance.items()}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / STATE)
        ranks = {name: layer.ranks for name, layer in self.layers.items()}
        write_atomic(folder / RANKS, json.dumps(ranks, sort_keys=True) + "\n")
        GrowthHistory(events=tuple(self.history)).save(folder / HISTORY)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ranks, tensors = read_json(folder / RANKS), load_file(folder / STATE)
        for name, layer in self.layers.items():
            for part in layer.lora.ranks:
                layer.lora.ranks[part] = list(ranks[name])
                layer.importance[part] = tensors[f"{name}/{part}"].to(layer.share.device)
            layer.share = tensors[f"{name}/share"].to(layer.share.device)
        self.history = list(GrowthHistory.load(folder / HISTORY).events)

    def finish(self, plan: Plan, alpha: float) -> Plan:
        """Give every expert the scaling of its final rank, B compensating, and return the plan it grew into."""
        grown: dict[str, int] = {}
        for name, layer in self.layers.items():
            layer.lora.settle_scale(alpha)
            for part, ranks in layer.lora.ranks.items():
                grown |= {f"{name.rpartition('.')[0]}.{expert}.{part}": rank for expert, rank in enumerate(ranks)}
        return grown_plan(plan, grown)


def _saliency(layer: _Layer) -> tuple[float, ...]:
    return tuple(worth / (rank + 1) ** GAMMA for worth, rank in zip(layer.worth(), layer.ranks, strict=True))


def schedule(steps: int) -> list[int]:
    """Steps after which experts grow: evenly spread from the warm-up's end to one interval before the run's.

    Raises:
        InputError: too short a run.
    """
    first = max(1, int(WARMUP * steps))
    every = (steps - first) // (EVENTS + 1)
    if every < 1:
        raise InputError(f"--grow needs at least {EVENTS + 3} steps to hold its {EVENTS} events; the run has {steps}")
    return [first + every * number for number in range(1, EVENTS + 1)]


def _prepare(name: str, lora: ExpertLora) -> _Layer:
    totals = {part: sum(ranks) for part, ranks in lora.ranks.items()}
    if len(set(totals.values())) > 1:
        raise InputError(f"--grow: the projections of {name} have unequal total ranks, {totals}; an expert grows in all of them")
    target = next(iter(totals.values()))
    experts = len(next(iter(lora.ranks.values())))
    mean = target / experts
    first, most = max(1, int(mean / 2)), lora.make_room(2 * math.ceil(mean), max(1, int(mean / 2)))
    if not experts * first <= target <= experts * most:
        raise InputError(f"--grow: {name} ends with {target} ranks, which {experts} experts of {first} to {most} cannot have")
    device = lora.B[next(iter(lora.ranks))].device
    layer = _Layer(lora=lora, target=target, first=first, most=most, share=torch.full((experts,), 1 / experts, device=device))
    layer.importance = {part: torch.zeros(lora.A[part].shape[:2], device=device) for part in lora.ranks}
    return layer


def grown_plan(plan: Plan, grown: Mapping[str, int]) -> Plan:
    """The plan with the ranks that training ended with.

    Args:
        plan: what growth started from.
        grown: live name of an expert's projection -> rank.
    """
    found = resolve((site.name for site in plan.sites), list(grown))
    sites = tuple(
        site.model_copy(update={"ranks": (rank,) if (rank := grown[found[site.name]]) else (), "top_k": min(1, rank)})
        if site.name in found
        else site
        for site in plan.sites
    )
    note = f"ranks were grown by DR-LoRA's rule from a plan by {plan.strategy!r} of the same size"
    made = plan.model_copy(update={"strategy": "dr-lora-grown", "optimum": None, "sites": sites, "notes": (note,)})
    return Plan.model_validate(made.model_dump())
