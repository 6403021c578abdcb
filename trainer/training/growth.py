"""DR-LoRA's growth: routed experts start with little rank and earn more while they train (arXiv 2601.04823).

The saliency of expert i in a layer is S_i = f_i g_i / (r_i + 1)^gamma. f is a moving average of the share of routing weight that
the expert gets, g one of how much the loss pulls on its adapters: by default per rank dimension |sum A dA| |sum B dB|, averaged
over the active dimensions and the adapted projections. At events spread over the run each group shares out its quota to the most
salient experts (planner/strategies/growth.py), until every layer has exactly the rank that the plan gave it. Where paper, code
and readings of them differ, a setting chooses; docs/papers/dr-lora.md has them side by side.

New directions change nothing when they start: A is random there, B zero, and their optimiser state has never been touched,
because until then both were zero and so were their gradients.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from planner import Plan
from planner.plan import Note
from planner.strategies.growth import ranks_after, saliency
from spectra import InputError
from spectra.checkpoint.names import resolve
from spectra.checkpoint.tensor_files import opened
from spectra.core.distributed import decided_by_main, is_main_process
from spectra.core.files import read_json, write_atomic
from spectra.core.log import LOG
from trainer.layers.inject import lora_alpha_of
from trainer.layers.offset import offset_mixtures
from trainer.report import GrowthEvent, GrowthHistory
from trainer.run_folder import HISTORY
from trainer.settings import GrowthSettings, MixtureSettings
from trainer.training.growth_groups import GrowthGroup, growth_groups

STATE, RANKS = "growth.safetensors", "growth-ranks.json"


class GrowingGroup:
    """A growth group and the moving averages that decide in it."""

    def __init__(self, group: GrowthGroup, settings: GrowthSettings) -> None:
        """Watch a group."""
        self.group, self.settings = group, settings
        self.share: Tensor | None = None
        self.importance: dict[str, Tensor] = {}

    def observe(self) -> None:
        """Update both averages from the step at hand."""
        decay = self.settings.growth_decay
        seen = self.group.take_usage()
        if seen is not None:
            seen = _summed(seen)  # the gradients below are averaged over the processes already
            even = torch.full_like(seen, 1 / len(seen))
            before = even if self.share is None else self.share
            # The floor keeps a step whose tokens were all padding from dividing by zero.
            self.share = decay * before.to(seen) + (1 - decay) * seen / seen.sum().clamp(min=1e-30)
        for part, pull in self.group.pulls(self.settings.saliency).items():
            # (E, room): per expert and rank dimension.
            before = self.importance.get(part, torch.zeros_like(pull)).to(pull)  # a resumed run's came from a file
            self.importance[part] = decay * before + (1 - decay) * pull

    def weights(self) -> list[float]:
        """Share times importance of each expert, f g."""
        if self.share is None or not self.importance:
            return [0.0] * len(self.group.ranks)  # nothing is known yet
        active = torch.tensor(self.group.ranks, device=self.share.device).clamp(min=1)
        # Dimensions beyond the active ones are zero with zero gradients, so the sum over all is the sum over the active ones.
        gradient = torch.stack([scores.sum(1) / active for scores in self.importance.values()]).mean(0)
        return [float(value) for value in (self.share * gradient).double().cpu()]

    def shares(self) -> list[float]:
        """Share of the routing weight of each expert, f; even before anything was observed."""
        even = [1 / len(self.group.ranks)] * len(self.group.ranks)
        return even if self.share is None else [float(value) for value in self.share.double().cpu()]

    def saliency(self) -> tuple[float, ...]:
        """S of each expert."""
        ranks = zip(self.weights(), self.group.ranks, strict=True)
        return tuple(saliency(weight, rank, self.settings.growth_penalty) for weight, rank in ranks)

    def decide(self, done: int, events: int) -> list[int]:
        """Ranks after an event.

        Args:
            done: events up to and with this one.
            events: number in the whole run.
        """
        group = self.group
        return ranks_after(
            self.settings, self.weights(), self.shares(), group.ranks, done,
            target=group.target, start=group.start, most=group.most, events=events,
        )  # fmt: skip

    def forget(self) -> None:
        """Start both averages over."""
        self.share, self.importance = None, {}


class Growth(TrainerCallback):
    """Grows the experts of a model while a Trainer trains it."""

    def __init__(self, model: nn.Module, plan: Plan, steps: int, settings: GrowthSettings, *, begin: int, seed: int = 0) -> None:
        """Take a model built from the plan back to its starting ranks.

        Args:
            model: from `apply_plan`; its experts' adapters are replaced by ones with room to grow.
            plan: says how much rank each group ends with.
            steps: optimiser steps of the run.
            settings: how experts grow.
            begin: steps of the learning rate's warm-up, during which nothing grows.
            seed: seed for the new directions.

        Raises:
            InputError: nothing that could grow, routed experts whose projections differ in total rank, or experts that did not
                start at zero: what was subtracted from their base could not be given back.
        """
        # Before the groups are made, because that starts all adapters over.
        if found := next(iter(offset_mixtures(model)), None):
            raise InputError(
                f"site {found!r}: `grow` starts experts over and so cannot follow an `init` that has changed their base weight;"
                f" use `init` {MixtureSettings().init}"
            )
        self.schedule, self.seed, self.settings = schedule(steps, begin, settings), seed, settings
        try:
            self.groups = {name: GrowingGroup(group, settings) for name, group in growth_groups(model, settings)}
        except ValueError as error:
            raise InputError(f"`grow`: {error}") from None
        if not self.groups:
            raise InputError(f"`grow`: the plan {plan.strategy!r} adapts neither routed experts nor mixtures: nothing can grow")
        _require_room([growing.group for growing in self.groups.values()])
        self.history: list[GrowthEvent] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the gradients of every step up to the last event."""
        # The Trainer calls this behind the step's last pass and the clipping of gradients; at `on_step_end` they are gone. After
        # the last event nothing is left to decide.
        if state.global_step < self.schedule[-1]:
            with torch.no_grad():
                for growing in self.groups.values():
                    growing.observe()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hold the events that are due."""
        # The Trainer saves only after this, so a checkpoint of the same step holds the ranks that the event gave.
        if state.global_step in self.schedule:
            self.event(self.schedule.index(state.global_step), state.global_step)

    def event(self, number: int, step: int) -> None:
        """Let every group grow by its quota.

        The averages of several processes differ in their last digits, and a near-tie could then end in other ranks on each. So
        the main process decides for all.
        """
        saliency = {name: growing.saliency() for name, growing in self.groups.items()}
        own_before = {name: list(growing.group.ranks) for name, growing in self.groups.items()}
        # Only the main process's decision counts, but all have to be here: the broadcast takes every process.
        own = {name: growing.decide(number + 1, len(self.schedule)) for name, growing in self.groups.items()}
        decided = decided_by_main(own)
        # From seed and step alone: the same on every process, and again after an interruption.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        for name, growing in self.groups.items():
            growing.group.grow_to(decided[name], generator)
        if is_main_process():
            LOG.info(_told(number + 1, len(self.schedule), step, own_before, decided))
        shares = {name: growing.share for name, growing in self.groups.items()}
        self.history.append(
            GrowthEvent(
                step=step,
                ranks={name: tuple(ranks) for name, ranks in decided.items()},
                shares={name: () if share is None else tuple(share.double().tolist()) for name, share in shares.items()},
                saliency=saliency,
            )
        )
        if self.settings.growth_reset:
            for growing in self.groups.values():
                growing.forget()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep what a resumed run needs beside the Trainer's own state."""
        # The averages of the processes agree up to rounding, and the main process's decide anyway.
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # GROUP/ is a group's share, GROUP/importance.PROJECTION its importance; the projection's name is empty for a mixture.
        tensors = {f"{name}/": growing.share for name, growing in self.groups.items() if growing.share is not None}
        for name, growing in self.groups.items():
            tensors |= {f"{name}/importance.{part}": scores for part, scores in growing.importance.items()}
        # safetensors refuses views that are not contiguous.
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / STATE)
        ranks = {name: growing.group.ranks for name, growing in self.groups.items()}
        write_atomic(folder / RANKS, json.dumps(ranks, sort_keys=True) + "\n")
        if self.history:  # a checkpoint may lie before the first event
            GrowthHistory(events=tuple(self.history)).save(folder / HISTORY)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        ranks = read_json(folder / RANKS)
        with opened(folder / STATE, "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        for name, growing in self.groups.items():
            # Before the tensors of the checkpoint are read: without the ranks nobody could say what is an expert's in them.
            growing.group.ranks = list(ranks[name])
            growing.share = tensors.get(f"{name}/")
            lead = f"{name}/importance."
            growing.importance = {key.removeprefix(lead): value for key, value in tensors.items() if key.startswith(lead)}
        # What a checkpoint had is sealed with hashes, so a history that is not there never was.
        self.history = list(GrowthHistory.load(folder / HISTORY).events) if (folder / HISTORY).is_file() else []

    def finish(self, plan: Plan, alpha: float) -> Plan:
        """Give every expert the scaling of its final rank, B compensating, and return the plan it grew into."""
        groups = [growing.group for growing in self.groups.values()]
        # The final scaling is that of the grown plan's own mean rank, so the plan comes first.
        grown = grown_plan(plan, {site: ranks for group in groups for site, ranks in group.planned().items()})
        for group in groups:
            group.finish(lora_alpha_of(list(grown.sites), alpha))
        return grown


def _told(number: int, events: int, step: int, before: Mapping[str, Sequence[int]], ranks: Mapping[str, Sequence[int]]) -> str:
    """An event in one line."""
    whole = [rank for group in ranks.values() for rank in group]
    gains = {name: [new - old for old, new in zip(before[name], ranks[name], strict=True)] for name in ranks}
    given = sum(map(sum, gains.values()))
    if not given:
        return f"step {step}, event {number} of {events}: nothing is known of any expert yet, so nothing grows"
    most = max(gains, key=lambda name: max(gains[name]))
    expert = gains[most].index(max(gains[most]))
    return (
        f"step {step}, event {number} of {events}: {given} ranks handed out, experts now have {min(whole)} to {max(whole)}, mean"
        f" {sum(whole) / len(whole):.3g}; the most, {gains[most][expert]}, to expert {expert} of {most.removesuffix('.loraplan')}"
    )


def _summed(usage: Tensor) -> Tensor:
    """The sum over all processes."""
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(usage)
    return usage


def schedule(steps: int, begin: int, settings: GrowthSettings) -> list[int]:
    """Steps after which experts grow: from the warm-up's end to one interval before the run's.

    Args:
        steps: of the whole run.
        begin: of the warm-up.
        settings: how many events, or how far apart.

    Raises:
        InputError: too short a run.
    """
    first = max(1, begin)
    # One interval more than there are events: what was grown last still has one to learn in.
    every = settings.growth_every or (steps - first) // (settings.growth_events + 1)
    count = (steps - first) // every - 1 if settings.growth_every else settings.growth_events
    if every < 1 or count < 1:
        held = f"an event every {every} steps" if settings.growth_every else f"{count} events"
        raise InputError(
            f"`grow` has no place for {held}: the run has {steps} steps, {first} of them before growth begins; train longer, or"
            " change `growth_events` or `growth_every`"
        )
    return [first + every * number for number in range(1, count + 1)]


def _require_room(groups: Sequence[GrowthGroup]) -> None:
    """Refuse ranks between which there is nothing to grow.

    Raises:
        InputError: naming the ranks.
    """
    for group in groups:
        experts = len(group.ranks)
        if group.most * experts < group.target:
            raise InputError(
                f"`growth_most`: {experts} experts of at most rank {group.most} cannot reach the plan's {group.target} in all"
            )
        if group.start * experts > group.target:
            raise InputError(f"`growth_start`: {experts} experts of rank {group.start} have more than the plan's {group.target}")
    # A start at half the mean, but at least 1, may already be all that the plan gives.
    if all(group.target == len(group.ranks) * group.start for group in groups):
        raise InputError(
            f"`grow`: experts start with rank {groups[0].start}, which is all that the plan gives; a larger budget leaves room"
        )


def grown_plan(plan: Plan, grown: Mapping[str, tuple[int, ...]]) -> Plan:
    """The plan with the ranks that training ended with.

    Args:
        plan: what growth started from.
        grown: live name of a site -> ranks of its experts.
    """
    found = resolve((site.name for site in plan.sites), list(grown))
    ranks = {site.name: grown[found[site.name]] for site in plan.sites if site.name in found}
    sites = tuple(site.model_copy(update={"ranks": ranks.get(site.name, site.ranks)}) for site in plan.sites)
    text = f"Ranks were grown by DR-LoRA's rule from a plan by {plan.strategy!r} of the same size."
    note = Note(about="grown", text=text)
    # The optimum and the notes were those of other ranks. A copy is not checked; building it anew from its values is.
    made = plan.model_copy(update={"strategy": "dr-lora-grown", "optimum": None, "sites": sites, "notes": (note,)})
    return Plan.model_validate(made.model_dump())
