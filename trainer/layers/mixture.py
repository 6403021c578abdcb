"""MixtureLinear: a frozen linear layer plus LoRA experts of mixed ranks, at the cost of one LoRA of their total rank.

All experts' A are stacked into one (R, d_in) matrix and all B into one (d_out, R), R being the sum of ranks:

    z = x A^T;   z *= scaling * gate of the expert that owns the column;   y = base(x) + z B^T

That is exactly sum_e gate_e * scaling_e * B_e A_e x, with any ranks and no padding: no loop over experts, no sorting of tokens,
no synchronisation with the host, static shapes. An expert that a token does not use has gate 0. The router's logits come out of
the same product as z, so the input is read once, and the last product adds onto the base's output. Basis: a LoRA mixture equals
one LoRA with block-wise rank activation (SMoRA, arXiv 2501.15103).

Shapes: T tokens (any leading dimensions), E experts, R total rank.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from planner import linear_shape
from spectra import InputError
from trainer.layers.router_state import RouterState
from trainer.routers import ROUTERS, Gates, RouterContext
from trainer.settings import MixtureSettings


class MixtureLinear(nn.Module):
    """A frozen linear layer with LoRA experts.

    One expert is a plain LoRA and has no router. B starts at zero, so a new mixture computes exactly what its base does.

    Attributes:
        A: (R, d_in), Kaiming-uniform as in LoRA.
        B: (d_out, R), zero.
        router: (E, d_in), or None with fewer than two experts.

    Example:
        >>> layer = MixtureLinear(nn.Linear(8, 4), ranks=[2, 1], top_k=1, scaling=2.0)
        >>> x = torch.randn(5, 8)
        >>> torch.equal(layer(x), layer.base(x)), tuple(layer.A.shape), tuple(layer.router.shape)
        (True, (3, 8), (2, 8))
    """

    scaling: Tensor
    A0: Tensor
    B0: Tensor

    def __init__(
        self,
        base: nn.Module,
        ranks: Sequence[int],
        top_k: int = 2,
        scaling: float | Sequence[float] = 1.0,
        router: str = "topk",
        *,
        routes: RouterState | None = None,
        site: str = "",
    ) -> None:
        """Wrap a linear layer.

        Args:
            base: an nn.Linear, also quantised to 4 or 8 bits, or a GPT-2 Conv1D; its parameters are frozen here.
            ranks: one per expert, zero allowed; none at all leaves the base alone.
            top_k: experts per token.
            scaling: factor on every expert's output, or one per expert.
            router: a name from the table in `trainer.routers`.
            routes: what this layer shares with the model's other mixtures; its settings then apply, the router's name included.
            site: the layer's name in the statistics of `routes`.

        Raises:
            InputError: a base that is not linear, a negative rank, a top_k or a number of scalings that does not fit the
                experts, or an unknown router.
        """
        super().__init__()
        ranks = tuple(ranks)
        scalings = [float(scaling)] * len(ranks) if isinstance(scaling, int | float) else [float(scale) for scale in scaling]
        self.routes, self.site = routes, site
        self.counting = False
        """Whether to note how tokens are routed, which growth needs."""
        self._routed: Tensor | None = None
        self.settings = routes.settings if routes else MixtureSettings()
        self.routing = self.settings.router if routes else router
        _validate(ranks, top_k, scalings, self.routing)
        self.base = base.requires_grad_(False)
        self.ranks, self.top_k, self.scalings = ranks, top_k, tuple(scalings)
        weight, shape = base.weight, linear_shape(base)
        if shape is None:
            raise InputError(f"a {type(base).__name__} is no linear layer")
        assert isinstance(weight, Tensor)
        d_out, d_in = shape
        like = torch.empty(0, device=weight.device, dtype=_adapter_dtype(weight))
        self.A = nn.Parameter(like.new_empty(sum(ranks), d_in))
        self.B = nn.Parameter(like.new_empty(d_out, sum(ranks)))
        self.router = nn.Parameter(like.new_empty(len(ranks), d_in)) if len(ranks) > 1 else None
        owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks, dtype=torch.long))
        scaling = (owners == torch.arange(len(ranks))[:, None]) * torch.tensor(scalings, dtype=torch.float64)[:, None]
        # (E, R): an expert's scaling in its own columns. Derived from ranks and scaling, so not part of the state.
        self.register_buffer("gain", scaling.to(like), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A and router Kaiming-uniform with a = sqrt 5 (bounds 1 / sqrt(d_in)), as LoRA and AlphaLoRA do; B zero."""
        for parameter in (self.A, self.router):
            if parameter is not None and parameter.numel():
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        nn.init.zeros_(self.B)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_in) to (..., d_out)."""
        y: Tensor = self.base(x)
        if not self.A.numel():
            return y
        x_TI = x.reshape(-1, x.shape[-1]).to(self.A.dtype)
        z_TR, logits_TE = self._products(x_TI)
        columns = (
            self.scaling.sum(0) if logits_TE is None else self.gates(logits_TE).to(z_TR.dtype) @ self.scaling.to(z_TR.dtype)
        )
        z_TR = z_TR * columns
        if y.dtype == z_TR.dtype == self.B.dtype:
            return torch.addmm(y.reshape(-1, y.shape[-1]), z_TR, self.B.T).view(y.shape)
        return y + (z_TR @ self.B.T).to(y.dtype).view(y.shape)

    def _products(self, x_TI: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute x A^T and the router's logits: one product, unless they differ in precision or in what they see."""
        seen_TI = nn.functional.dropout(x_TI, self.settings.dropout, self.training)
        if self.router is None:
            return seen_TI @ self.A.T, None
        device = x_TI.device.type
        if torch.is_autocast_enabled(device) or seen_TI is not x_TI:
            z_TR = seen_TI @ self.A.T
            with torch.autocast(device, enabled=False):  # routing in single precision or better
                return z_TR, x_TI @ self.router.T
        both = x_TI @ torch.cat([self.A, self.router]).T
        return both[:, : len(self.A)], both[:, len(self.A) :]

    def gates(self, logits_TE: Tensor) -> Tensor:
        """How much each expert counts for each token, decided in the logits' precision.

        Args:
            logits_TE: (T, E).

        Returns:
            (T, E). Rows sum to 1, or less where a capacity limit turned the token away.
        """
        settings, mask_T = self.settings, None
        if self.routes is not None and self.routes.token_mask is not None and self.routes.token_mask.numel() == len(logits_TE):
            mask_T = self.routes.token_mask.reshape(-1)
        routing = RouterContext(
            top_k=self.top_k,
            training=self.training,
            token_mask=mask_T,
            capacity=settings.capacity,
            expert_dropout=settings.expert_dropout,
        )
        gates = ROUTERS[self.routing](logits_TE, routing)
        if self.routes is not None and self.training:
            self._tell(logits_TE, gates, mask_T)
        if self.counting and self.training:
            kept = gates.picked.detach() if mask_T is None else gates.picked.detach() * mask_T[:, None]
            self._routed = kept.sum(0) if self._routed is None else self._routed + kept.sum(0)
        return gates.gates

    def _tell(self, logits_TE: Tensor, gates: Gates, mask_T: Tensor | None) -> None:
        assert self.routes is not None
        if self.routes.wants_loss():
            self.routes.add_loss(logits_TE, gates, mask_T)
        if self.routes.recording:
            self.routes.record(self.site, logits_TE, gates, mask_T)

    @torch.no_grad()
    def reserve_rank(self, most: int, first: int) -> int:
        """Start over with rank `first` for every expert and room for `most`; one scale for all, that of the mean rank planned.

        Returns:
            The rank that an expert can reach: `most`, or less where the matrix is smaller.
        """
        (d_out, _), d_in, experts = self.B.shape, self.A.shape[1], len(self.ranks)
        most = min(most, d_in, d_out)
        largest = max(range(experts), key=lambda expert: self.ranks[expert])
        lora_alpha = self.scalings[largest] * self.ranks[largest]
        self._reshape((most,) * experts, lora_alpha / (sum(self.ranks) / experts))
        self.counting = True
        for expert in range(experts):
            self.start(expert, slice(0, first))
        return most

    @torch.no_grad()
    def start(self, expert: int, rows: slice, generator: torch.Generator | None = None) -> None:
        """Give some of an expert's rows of A random values; with B zero there, nothing changes yet."""
        first = sum(self.ranks[:expert])
        bound = 1 / math.sqrt(self.A.shape[1])
        new = self.A[first + rows.start : first + rows.stop]
        new.copy_(bound * (2 * torch.rand(new.shape, generator=generator) - 1))

    @torch.no_grad()
    def compact(self, ranks: Sequence[int], lora_alpha: float) -> None:
        """Keep the first ranks of every expert, scaled as those ranks ask, lora_alpha / rank, B compensating."""
        starts = [sum(self.ranks[:expert]) for expert in range(len(self.ranks))]
        kept = [first + column for first, rank in zip(starts, ranks, strict=True) for column in range(rank)]
        held, A, B = self.scalings[0], self.A[kept].clone(), self.B[:, kept].clone()
        self._reshape(tuple(ranks), [lora_alpha / rank for rank in ranks])
        self.A.copy_(A)
        self.B.copy_(B * held / self.scaling.sum(0))

    def _reshape(self, ranks: tuple[int, ...], scaling: float | Sequence[float]) -> None:
        """Replace A and B by zeros of other ranks."""
        self.ranks = ranks
        self.scalings = (float(scaling),) * len(ranks) if isinstance(scaling, int | float) else tuple(scaling)
        self.A = nn.Parameter(self.A.new_zeros(sum(ranks), self.A.shape[1]))
        self.B = nn.Parameter(self.B.new_zeros(self.B.shape[0], sum(ranks)))
        owners = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(ranks))
        own = (owners == torch.arange(len(ranks))[:, None]).to(self.scaling)
        self.scaling = own * torch.tensor(self.scalings, dtype=torch.float64)[:, None].to(self.scaling)

    def take_routing(self) -> Tensor | None:
        """Sum of each expert's gates since the last call, (E,)."""
        found, self._routed = self._routed, None
        return found

    def extra_repr(self) -> str:
        """What print(model) shows beside the base."""
        return f"ranks={list(self.ranks)}, top_k={self.top_k}, router={self.routing if self.router is not None else None}"


def _adapter_dtype(weight: Tensor) -> torch.dtype:
    """Adapters of a half-precision base train in float32: their updates are often below half precision's resolution."""
    return weight.dtype if weight.dtype == torch.float64 else torch.float32


def _validate(ranks: Sequence[int], top_k: int, scalings: Sequence[float], router: str) -> None:
    if any(rank < 0 for rank in ranks):
        raise InputError(f"rank {min(ranks)} in {list(ranks)} is negative")
    if ranks and not 1 <= top_k <= len(ranks):
        raise InputError(f"top_k {top_k} does not fit {len(ranks)} experts")
    if len(scalings) != len(ranks):
        raise InputError(f"{len(scalings)} scalings for {len(ranks)} experts")
    if router not in ROUTERS:
        raise InputError(f"router {router!r}: not one of {', '.join(ROUTERS)}")
