"""MixtureLinear: a frozen linear layer plus LoRA experts of mixed ranks, at the cost of one LoRA of their total rank.

All experts' A are stacked into one (R, d_in) matrix and all B into one (d_out, R), R being the sum of ranks:

    z = x A^T;   z *= scaling * gate of the expert that owns the column;   y = base(x) + z B^T

That is exactly sum_e gate_e * scaling_e * B_e A_e x, with any ranks and no padding: no loop over experts, no sorting of tokens,
no synchronisation with the host, static shapes. An expert that a token does not use has gate 0. Products run in the precision of
the base's output and add onto it (low_rank.py). Basis: a LoRA mixture equals one LoRA with block-wise rank activation (SMoRA,
arXiv 2501.15103).

Shapes: T tokens (any leading dimensions), E experts, R total rank. A tensor's name ends in its axes: logits_TE is (T, E).

A forward pass of the whole model begins with a hook that calls `state.begin`, which notes padding and forgets the pass before.
Every mixture then adds what its router did by `state.observe`, and the loop takes `state.loss` at the end.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from planner import linear_shape
from spectra import InputError
from trainer.layers.draws import draw_uniform, generator_of
from trainer.layers.low_rank import AdaptedLinear, LowRankUpdate, RouterLogits
from trainer.layers.router_state import RouterState, mask_for
from trainer.routers import ROUTERS, RouterContext
from trainer.settings import MixtureSettings


class MixtureLinear(nn.Module):
    """A frozen linear layer with LoRA experts.

    One expert is a plain LoRA and has no router. B starts at zero, so a new mixture computes exactly what its base does.

    Attributes:
        A: (R, d_in), Kaiming-uniform as in LoRA.
        B: (d_out, R), zero.
        router: (E, d_in), or None with fewer than two experts.
        scaling: (E, R), an expert's scaling in its own columns, zero elsewhere.

    Example:
        >>> layer = MixtureLinear(nn.Linear(8, 4), ranks=[2, 1], top_k=1, scaling=2.0)
        >>> x = torch.randn(5, 8)
        >>> torch.equal(layer(x), layer.base(x)), tuple(layer.A.shape), tuple(layer.router.shape)
        (True, (3, 8), (2, 8))
    """

    scaling: Tensor
    A0: Tensor  # only where the experts did not start at zero (offset.py)
    B0: Tensor

    def __init__(
        self,
        base: nn.Module,
        ranks: Sequence[int],
        top_k: int = 2,
        scaling: float | Sequence[float] = 1.0,
        settings: MixtureSettings | None = None,
        *,
        state: RouterState | None = None,
        site: str = "",
        seed: int | None = None,
    ) -> None:
        """Wrap a linear layer.

        Args:
            base: an nn.Linear, also quantised to 4 or 8 bits, or a GPT-2 Conv1D; its parameters are frozen here.
            ranks: one per expert, zero allowed; none at all leaves the base alone.
            top_k: experts per token.
            scaling: factor on every expert's output, or one per expert.
            settings: the router and its settings, and dropout; by default those of `MixtureSettings`.
            state: what this layer shares with the model's other mixtures, settings included.
            site: the layer's name in the shared state.
            seed: see `reset_parameters`.

        Raises:
            InputError: a base that is not linear, a negative rank, a top_k or a number of scalings that does not fit the
                experts, or both settings and a shared state.
        """
        super().__init__()
        ranks = tuple(ranks)
        scalings = [float(scaling)] * len(ranks) if isinstance(scaling, int | float) else [float(scale) for scale in scaling]
        if settings is not None and state is not None:
            raise InputError("a mixture takes its settings from the shared state; give one of the two")
        _validate(ranks, top_k, scalings)
        self.state, self.site = state, site
        self.settings = state.settings if state else settings or MixtureSettings()
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
        # Derived from ranks and scalings, so not part of what is saved.
        self.register_buffer("scaling", scaling_columns(ranks, scalings, like), persistent=False)
        self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """A and router Kaiming-uniform with a = sqrt 5 (bounds 1 / sqrt(d_in)), as LoRA and AlphaLoRA do; B zero.

        Args:
            seed: of the draws, together with the layer's name; by default they are torch's next ones. With it an expert's first
                rows are the same whatever its rank and the other layers, so that plans of other ranks start alike.
        """
        for expert, rows in enumerate(torch.split(self.A, list(self.ranks))):
            draw_uniform(rows, generator_of(seed, self.site, expert))
        if self.router is not None:
            for expert, row in enumerate(self.router):
                draw_uniform(row, generator_of(seed, self.site, "router", expert))
        nn.init.zeros_(self.B)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_in) to (..., d_out)."""
        if not self.A.numel():
            found: Tensor = self.base(x)
            return found
        x_TI = x.reshape(-1, x.shape[-1])
        # Only the experts see what dropout leaves: the router decides on the whole input.
        seen_TI = nn.functional.dropout(x_TI, self.settings.dropout, self.training)
        columns = self._columns(x_TI)
        if plain := self._plain(x):
            # Dropout returns the very same tensor where it drops nothing.
            seen = None if seen_TI is x_TI else seen_TI
            return AdaptedLinear.apply(x_TI, seen, *plain, self.A, self.B, columns).view(*x.shape[:-1], -1)  # type: ignore[no-untyped-call,no-any-return]
        y: Tensor = self.base(x)
        return LowRankUpdate.apply(y.reshape(-1, y.shape[-1]), seen_TI, self.A, self.B, columns).view(y.shape)  # type: ignore[no-untyped-call,no-any-return]

    def _plain(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """The base's weight, (d_out, d_in), and bias, if calling it would be nothing but their product and sum."""
        base, weight = self.base, self.base.weight
        assert isinstance(weight, Tensor)
        hooked = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or "forward" in base.__dict__
        if type(base) not in (nn.Linear, Conv1D) or hooked or weight.dtype != x.dtype or weight.requires_grad:
            return None
        if torch.is_autocast_enabled(x.device.type):
            return None
        bias = base.bias
        assert bias is None or isinstance(bias, Tensor)
        return weight.T if isinstance(base, Conv1D) else weight, bias

    def _columns(self, x_TI: Tensor) -> Tensor:
        """Factors on the columns of z: (T, R), or (R,) where there is no router."""
        # Gates and scaling go onto z, which is narrow, and not onto the outputs: R columns instead of E times d_out.
        if self.router is None:
            return self.scaling.sum(0)
        gates_TE = self.gates(RouterLogits.apply(x_TI, self.router))  # type: ignore[no-untyped-call]
        # (T, E) times (E, R): every column of z gets its owner's gate times scaling, with no gather and no loop over experts.
        with torch.autocast(x_TI.device.type, enabled=False):
            return gates_TE @ self.scaling

    def gates(self, logits_TE: Tensor) -> Tensor:
        """How much each expert counts for each token, decided in the logits' precision.

        Args:
            logits_TE: (T, E).

        Returns:
            (T, E). Rows sum to 1, or less where a capacity limit turned the token away.
        """
        mask_T = mask_for(self.state, len(logits_TE))
        context = RouterContext(top_k=self.top_k, training=self.training, token_mask=mask_T)
        chosen = self.settings.router
        gates = ROUTERS[chosen.name].run(logits_TE, context, chosen.settings)
        # Evaluation routes too, but has no auxiliary loss and must not enter what training records.
        if self.state is not None and self.training:
            self.state.observe(self.site, logits_TE, gates, mask_T)
        return gates.gates

    def delta_weight(self) -> Tensor:
        """Update that the adapter adds to the base's weight, (d_out, d_in) in float64.

        Raises:
            InputError: the layer has a router, so that its effect depends on the token.
        """
        if self.router is not None:
            raise InputError(
                f"site {self.site!r} has a router: a mixture cannot be folded into one weight; load it with load_adapters"
            )
        # Without a router there is one scaling, or none at all and a product of one, with an A and B that are empty.
        return math.prod(self.scalings) * (self.B.detach().double() @ self.A.detach().double())

    def extra_repr(self) -> str:
        """Text that print(model) shows beside the base."""
        router = self.settings.router.name if self.router is not None else None
        return f"ranks={list(self.ranks)}, top_k={self.top_k}, router={router}"


def scaling_columns(ranks: Sequence[int], scalings: Sequence[float], like: Tensor) -> Tensor:
    """(E, R): every expert's scaling in the columns that it owns, zero elsewhere.

    Args:
        ranks: one per expert.
        scalings: one per expert.
        like: a tensor with the device and dtype of the result.
    """
    owner_R = torch.repeat_interleave(torch.arange(len(ranks)), torch.tensor(tuple(ranks), dtype=torch.long))
    own_ER = owner_R == torch.arange(len(ranks))[:, None]
    return (own_ER * torch.tensor(tuple(scalings), dtype=torch.float64)[:, None]).to(like)


def mixtures(model: nn.Module) -> dict[str, MixtureLinear]:
    """The adapted linear modules by their name in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear)}


def _adapter_dtype(weight: Tensor) -> torch.dtype:
    """Adapters of a half-precision base train in float32: their updates are often below half precision's resolution."""
    return weight.dtype if weight.dtype == torch.float64 else torch.float32


def _validate(ranks: Sequence[int], top_k: int, scalings: Sequence[float]) -> None:
    if any(rank < 0 for rank in ranks):
        raise InputError(f"rank {min(ranks)} in {list(ranks)} is negative")
    if ranks and not 1 <= top_k <= len(ranks):
        raise InputError(f"top_k {top_k} does not fit {len(ranks)} experts")
    if len(scalings) != len(ranks):
        raise InputError(f"{len(scalings)} scalings for {len(ranks)} experts")
