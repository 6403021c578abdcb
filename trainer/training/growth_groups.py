"""What grows: experts that compete for one quota, whether routed experts of the base model or LoRA experts of one module."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.layers.expert_lora import ExpertLora, expert_loras
from trainer.layers.inject import mixtures
from trainer.layers.mixture import MixtureLinear


class GrowthGroup(Protocol):
    """Experts with room to grow; E of them."""

    ranks: list[int]
    target: int
    """Ranks of all experts together at the end."""
    first: int
    most: int

    def take_routing(self) -> Tensor | None:
        """Routing weight of each expert since the last call, (E,)."""

    def gradient_terms(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Projection -> |sum A dA| and |sum B dB| of every expert's rank dimensions, (E, room) each."""

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """Start the new directions; every process must draw the same."""

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """Live site -> ranks."""

    def finish(self, lora_alpha: float) -> None:
        """Give every rank its static scaling."""


class RoutedGroup:
    """The routed experts of one layer of the base model; an expert grows in all its adapted projections."""

    def __init__(self, name: str, lora: ExpertLora) -> None:
        """Make room in a layer's adapters.

        Raises:
            ValueError: projections that differ in total rank.
        """
        totals = {part: sum(ranks) for part, ranks in lora.ranks.items()}
        if len(set(totals.values())) > 1:
            raise ValueError(f"projections have unequal total ranks, {totals}; an expert grows in all of them")
        self.name, self.lora, self.target = name, lora, next(iter(totals.values()))
        experts = len(next(iter(lora.ranks.values())))
        self.first = start_rank(self.target, experts)
        self.most = lora.reserve_rank(most_rank(self.target, experts), self.first)

    @property
    def ranks(self) -> list[int]:
        """Of each expert, the same in every projection."""
        return next(iter(self.lora.ranks.values()))

    @ranks.setter
    def ranks(self, ranks: list[int]) -> None:
        for part in self.lora.ranks:
            self.lora.ranks[part] = list(ranks)

    def take_routing(self) -> Tensor | None:
        """See `Pool`."""
        return self.lora.take_routing()

    def gradient_terms(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """See `Pool`."""
        found = {}
        for part in self.lora.ranks:
            A, B = self.lora.A[part], self.lora.B[part]
            if A.grad is not None and B.grad is not None:
                found[part] = (torch.linalg.vecdot(A.grad, A).abs(), (B.grad * B).sum(1).abs())
        return found

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """See `Pool`."""
        for part in self.lora.ranks:
            for expert, (before, after) in enumerate(zip(self.ranks, ranks, strict=True)):
                if after > before:
                    self.lora.start(part, expert, slice(before, after), generator)
        self.ranks = list(ranks)

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """See `Pool`."""
        experts = self.name.rpartition(".")[0]
        return {
            f"{experts}.{expert}.{part}": (rank,) for part, ranks in self.lora.ranks.items() for expert, rank in enumerate(ranks)
        }

    def finish(self, lora_alpha: float) -> None:
        """See `Pool`."""
        self.lora.settle_scale(lora_alpha)


class MixtureGroup:
    """The LoRA experts of one module of a dense model."""

    def __init__(self, name: str, mixture: MixtureLinear) -> None:
        """Make room in a module's mixture."""
        self.name, self.mixture, self.target = name, mixture, sum(mixture.ranks)
        experts = len(mixture.ranks)
        self.first = start_rank(self.target, experts)
        self.most = mixture.reserve_rank(most_rank(self.target, experts), self.first)
        self.ranks = [self.first] * experts

    def take_routing(self) -> Tensor | None:
        """See `Pool`."""
        return self.mixture.take_routing()

    def gradient_terms(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """See `Pool`."""
        A, B, shape = self.mixture.A, self.mixture.B, (len(self.ranks), self.most)
        if A.grad is None or B.grad is None:
            return {}
        return {"": ((A.grad * A).sum(1).abs().view(shape), (B.grad * B).sum(0).abs().view(shape))}

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """See `Pool`."""
        for expert, (before, after) in enumerate(zip(self.ranks, ranks, strict=True)):
            if after > before:
                self.mixture.start(expert, slice(before, after), generator)
        self.ranks = list(ranks)

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """See `Pool`."""
        return {self.name: tuple(self.ranks)}

    def finish(self, lora_alpha: float) -> None:
        """See `Pool`."""
        self.mixture.compact(self.ranks, lora_alpha)


def growth_groups(model: nn.Module) -> Iterator[tuple[str, GrowthGroup]]:
    """Everything in a model that can grow: layers of routed experts, and modules with several LoRA experts.

    Raises:
        ValueError: experts whose projections differ in total rank.
    """
    for name, lora in expert_loras(model).items():
        yield name, RoutedGroup(name, lora)
    for name, mixture in mixtures(model).items():
        if len(mixture.ranks) > 1:
            yield name, MixtureGroup(name, mixture)


def start_rank(target: int, experts: int) -> int:
    """DR-LoRA starts with half of the mean rank: 8 of 16."""
    return max(1, int(target / experts / 2))


def most_rank(target: int, experts: int) -> int:
    """And reserves twice the mean: 32 of 16."""
    return 2 * -(-target // experts)
