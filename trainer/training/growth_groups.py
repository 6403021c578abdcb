"""Growth groups: experts that compete for one quota, whether routed experts of the base model or LoRA experts of one module.

Growing takes surgery on a layer: replacing A and B by larger ones, starting new directions, cutting back to what was earned. The
layers know nothing of it; they compute with whatever A, B, ranks and scaling they have.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from planner.modules.fused_experts import router_of
from planner.solver.budget import widest_rank
from planner.strategies.growth import GrowthRule
from trainer.layers.draws import draw_uniform
from trainer.layers.expert_lora import ExpertLora, expert_loras, padded_rank
from trainer.layers.mixture import MixtureLinear, mixtures, scaling_columns
from trainer.layers.router_state import RouterState, mask_for
from trainer.settings import GradientForm as Form
from trainer.settings import GrowthSettings


class GrowthGroup(Protocol):
    """Experts with room to grow; E of them."""

    ranks: list[int]
    target: int
    """Ranks of all experts together at the end."""
    start: int
    """The rank that every expert starts with."""
    most: int
    """The rank that an expert can reach."""

    def take_usage(self) -> Tensor | None:
        """Routing weight of each expert since the last call, (E,)."""

    def pulls(self, form: Form) -> Mapping[str, Tensor]:
        """Projection -> how much the loss pulls on every expert's rank dimensions, (E, room); `pull` has the forms."""

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """Start the new directions; every process must draw the same."""

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """Live site -> ranks."""

    def finish(self, lora_alpha: float) -> None:
        """Give every expert the scaling of its final rank, lora_alpha / rank, B compensating."""


class RoutedGroup:
    """The routed experts of one layer of the base model; an expert grows in all its adapted projections."""

    def __init__(self, name: str, lora: ExpertLora, rule: GrowthRule) -> None:
        """Start a layer's adapters over, with room to grow.

        Raises:
            ValueError: projections that differ in total rank.
        """
        totals = {part: sum(ranks) for part, ranks in lora.ranks.items()}
        if len(set(totals.values())) > 1:
            raise ValueError(f"projections have unequal total ranks, {totals}; an expert grows in all of them")
        self.name, self.lora, self.target = name, lora, next(iter(totals.values()))
        experts = len(next(iter(lora.ranks.values())))
        self.start, self.most = rule.start_of(self.target, experts), rule.most_of(self.target, experts)
        self._reserve()

    @torch.no_grad()
    def _reserve(self) -> None:
        """Replace A and B by ones with room; one scaling for all experts, that of the mean rank planned."""
        lora = self.lora
        for part, ranks in lora.ranks.items():
            count, _, d_in = lora.A[part].shape
            d_out = lora.B[part].shape[1]
            self.most = min(self.most, max(widest_rank((d_out, d_in)), *ranks))  # no LoRA grows larger than its matrix
            # lora_alpha is not kept anywhere. It follows from any expert that has rank; the one with most surely has.
            largest = ranks.index(max(ranks))
            lora_alpha = float(lora.scaling(part)[largest]) * ranks[largest]
            lora.scaling(part).fill_(lora_alpha / (sum(ranks) / count))
            lora.ranks[part] = [self.start] * count
            # New parameters are safe here: the optimiser is made later, and has never seen the old ones.
            room = padded_rank(self.most)
            lora.A[part] = nn.Parameter(lora.A[part].new_zeros(count, room, d_in))
            lora.B[part] = nn.Parameter(lora.B[part].new_zeros(count, d_out, room))
        lora.reset_parameters()

    @property
    def ranks(self) -> list[int]:
        """Rank of each expert, the same in every projection."""
        # The adapters hold them, because saving and loading strip the padding by them; one projection speaks for all.
        return next(iter(self.lora.ranks.values()))

    @ranks.setter
    def ranks(self, ranks: list[int]) -> None:
        for part in self.lora.ranks:
            self.lora.ranks[part] = list(ranks)

    def take_usage(self) -> Tensor | None:
        """See `GrowthGroup`."""
        return self.lora.state.take_usage(self.lora.name) if self.lora.state else None

    def pulls(self, form: Form) -> Mapping[str, Tensor]:
        """See `GrowthGroup`."""
        found = {}
        for part in self.lora.ranks:
            A, B = self.lora.A[part], self.lora.B[part]
            if A.grad is not None and B.grad is not None:
                # A is (E, room, d_in) and B (E, d_out, room): both are summed over the side that is no rank.
                found[part] = pull(A.grad * A, B.grad * B, (2, 1), form)
        return found

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """See `GrowthGroup`."""
        for part in self.lora.ranks:
            for expert, (before, after) in enumerate(zip(self.ranks, ranks, strict=True)):
                if after > before:
                    # Only A: while B is zero a new direction changes no output. Every process draws in this order.
                    draw_uniform(self.lora.A[part][expert, before:after], generator)
        self.ranks = list(ranks)

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """See `GrowthGroup`."""
        # The group is named after its adapters, which are a child of the experts; a site stands below the experts themselves.
        experts = self.name.rpartition(".")[0]
        return {
            f"{experts}.{expert}.{part}": (rank,) for part, ranks in self.lora.ranks.items() for expert, rank in enumerate(ranks)
        }

    @torch.no_grad()
    def finish(self, lora_alpha: float) -> None:
        """See `GrowthGroup`."""
        for part, ranks in self.lora.ranks.items():
            held = self.lora.scaling(part)
            wanted = held.new_tensor([lora_alpha / rank if rank else 0.0 for rank in ranks])
            # The update is scaling x B A: B takes over what the scaling loses, so that the model computes the same as before.
            self.lora.B[part].mul_(torch.where(wanted > 0, held / wanted.clamp(min=1e-30), 1.0)[:, None, None])
            held.copy_(wanted)


class MixtureGroup:
    """The LoRA experts of one linear module."""

    def __init__(self, name: str, mixture: MixtureLinear, rule: GrowthRule) -> None:
        """Start a module's mixture over, with room to grow."""
        self.name, self.mixture, self.target = name, mixture, sum(mixture.ranks)
        experts = len(mixture.ranks)
        widest = max(widest_rank((mixture.B.shape[0], mixture.A.shape[1])), *mixture.ranks)
        self.start, self.most = rule.start_of(self.target, experts), min(rule.most_of(self.target, experts), widest)
        self.ranks = [self.start] * experts
        self._reserve()

    @torch.no_grad()
    def _reserve(self) -> None:
        """Replace A and B by ones with room; one scaling for all experts, that of the mean rank planned."""
        mixture, experts = self.mixture, len(self.mixture.ranks)
        largest = max(range(experts), key=lambda expert: mixture.ranks[expert])
        # lora_alpha is not kept anywhere; it follows from an expert's scaling and rank, and one without rank would give zero.
        lora_alpha = mixture.scalings[largest] * mixture.ranks[largest]
        # Every expert owns `most` columns, the first of them in use; no padding to 8, which only grouped products need.
        _resize(mixture, (self.most,) * experts, [lora_alpha / (self.target / experts)] * experts)
        for expert in range(experts):
            draw_uniform(self._rows(expert, 0, self.start))

    def _rows(self, expert: int, first: int, last: int) -> Tensor:
        """Some of an expert's rows of A."""
        return self.mixture.A[expert * self.most + first : expert * self.most + last]

    def take_usage(self) -> Tensor | None:
        """See `GrowthGroup`."""
        return self.mixture.state.take_usage(self.mixture.site) if self.mixture.state else None

    def pulls(self, form: Form) -> Mapping[str, Tensor]:
        """See `GrowthGroup`."""
        # A is (E most, d_in) and B (d_out, E most), expert by expert; a mixture is a single projection, whose name is empty.
        A, B = self.mixture.A, self.mixture.B
        if A.grad is None or B.grad is None:
            return {}
        return {"": pull(A.grad * A, B.grad * B, (1, 0), form).view(len(self.ranks), self.most)}

    def grow_to(self, ranks: Sequence[int], generator: torch.Generator | None = None) -> None:
        """See `GrowthGroup`."""
        for expert, (before, after) in enumerate(zip(self.ranks, ranks, strict=True)):
            if after > before:
                draw_uniform(self._rows(expert, before, after), generator)
        self.ranks = list(ranks)

    def planned(self) -> Mapping[str, tuple[int, ...]]:
        """See `GrowthGroup`."""
        return {self.name: tuple(self.ranks)}

    @torch.no_grad()
    def finish(self, lora_alpha: float) -> None:
        """See `GrowthGroup`. What was not earned is cut off."""
        mixture = self.mixture
        # Copied before resizing, which replaces A and B by zeros.
        kept = [expert * self.most + column for expert, rank in enumerate(self.ranks) for column in range(rank)]
        held, A, B = mixture.scalings[0], mixture.A[kept].clone(), mixture.B[:, kept].clone()
        _resize(mixture, tuple(self.ranks), [lora_alpha / rank for rank in self.ranks])
        mixture.A.copy_(A)
        # During growth all columns had one scaling; now each has its owner's, and B makes up for the difference.
        mixture.B.copy_(B * held / mixture.scaling.sum(0))


def _resize(mixture: MixtureLinear, ranks: tuple[int, ...], scalings: Sequence[float]) -> None:
    """Replace a mixture's A and B by zeros for other ranks."""
    mixture.ranks, mixture.scalings = ranks, tuple(scalings)
    mixture.A = nn.Parameter(mixture.A.new_zeros(sum(ranks), mixture.A.shape[1]))
    mixture.B = nn.Parameter(mixture.B.new_zeros(mixture.B.shape[0], sum(ranks)))
    mixture.scaling = scaling_columns(ranks, scalings, mixture.scaling)


def pull(dA_A: Tensor, dB_B: Tensor, sides: tuple[int, int], form: Form) -> Tensor:
    """How much the loss pulls on each rank dimension of A and B.

    Args:
        dA_A: A times its gradient, element by element.
        dB_B: the same of B.
        sides: the dimension of each that is no rank, over which is summed.
        form: `paper` multiplies the absolute values of both sums, `released` adds them; `absolute` multiplies the sums of the
            absolute values.
    """
    if form == "absolute":
        return dA_A.abs().sum(sides[0]) * dB_B.abs().sum(sides[1])
    of_A, of_B = dA_A.sum(sides[0]).abs(), dB_B.sum(sides[1]).abs()
    return of_A * of_B if form == "paper" else of_A + of_B


def growth_groups(model: nn.Module, settings: GrowthSettings) -> Iterator[tuple[str, GrowthGroup]]:
    """Everything in a model that can grow: layers of routed experts, and modules with several LoRA experts.

    Raises:
        ValueError: experts whose projections differ in total rank, or whose base router cannot be found where it is asked.
    """
    for name, lora in expert_loras(model).items():
        _count(lora.state, settings)
        if settings.growth_share == "softmax":
            _watch_router(model, name.rpartition(".")[0], lora)
        yield name, RoutedGroup(name, lora, settings)
    for name, mixture in mixtures(model).items():
        # A module with one LoRA has nobody to compete with, and keeps the rank of the plan.
        if len(mixture.ranks) > 1:
            _count(mixture.state, settings)
            yield name, MixtureGroup(name, mixture, settings)


def _count(state: RouterState | None, settings: GrowthSettings) -> None:
    """Let the use of experts be summed up, which the saliency needs."""
    if state is not None:
        state.counting = True
        state.counts_learned, state.counts_softmax = settings.growth_tokens == "learned", settings.growth_share == "softmax"


def _watch_router(model: nn.Module, experts: str, lora: ExpertLora) -> None:
    """Let the base's router of a layer tell its whole softmax; experts themselves are told the chosen ones only.

    Raises:
        ValueError: no router is found beside the experts.
    """
    router = router_of(model, experts)
    if router is None:
        raise ValueError(f"no router is found beside {experts}, whose softmax `growth_share` asks for")

    def tell(module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
        state = lora.state
        if state is None or not lora.training:
            return
        with torch.no_grad():
            # From the weights and not from the output, which every family arranges in its own way.
            x_TI, bias = inputs[0].reshape(-1, inputs[0].shape[-1]), getattr(module, "bias", None)
            weight = module.weight
            assert isinstance(weight, Tensor)
            logits_TE = nn.functional.linear(x_TI.float(), weight.float(), None if bias is None else bias.float())
            state.count(lora.name, logits_TE.softmax(-1), mask_for(state, len(x_TI)))

    router.register_forward_hook(tell)
