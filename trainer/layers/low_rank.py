"""The products of an adapted layer as autograd functions that keep nothing twice and add in place.

Written with plain operators, autograd would keep every intermediate, make each sum a tensor of its own, and on a half-precision
base convert the layer's input, the largest tensor that an adapter touches, to the adapters' precision and back. Here the input is
kept once, as it came, and sums, of outputs and of the input's gradients, are made in place.

In half precision the base's large product is accumulated onto the adapter's small one, in single precision and rounded once. The
other way round, the rounded product swallows every update that is less than half of its last bit: on SmolLM2-135M a twentieth of
a trained adapter then took 0.6 nats off the loss instead of 1.5 (benchmarks/small_updates.py).

Shapes: T tokens, E experts, R total rank. `columns` are factors on the R columns of z = x A^T: (R,), or (T, R) where each token
has its own.
"""

from typing import Any

import torch
from torch import Tensor, nn

Gradients = tuple[Tensor | None, ...]


class AdaptedLinear(torch.autograd.Function):
    """x W^T + bias + ((s A^T) * columns) B^T with a frozen W, in the precision of x; A and B and their gradients keep theirs.

    s is what dropout leaves of x, or None for x itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        seen_TI: Tensor | None,
        W_OI: Tensor,
        bias_O: Tensor | None,
        A_RI: Tensor,
        B_OR: Tensor,
        columns: Tensor,
    ) -> Tensor:
        """Return (T, d_out)."""
        ctx.whole = seen_TI is None
        B_OR = B_OR.to(x_TI.dtype)
        scaled_TR = _keep(ctx, x_TI if seen_TI is None else seen_TI, A_RI, B_OR, columns, W_OI)
        if x_TI.itemsize < 4:
            y_TO = (scaled_TR @ B_OR.T).addmm_(x_TI, W_OI.T)
            return y_TO if bias_O is None else y_TO.add_(bias_O)
        # Where rounding swallows nothing that counts, a new adapter leaves the base's outputs as they are, to the bit.
        return nn.functional.linear(x_TI, W_OI, bias_O).addmm_(scaled_TR, B_OR.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """Gradients of x, s, A, B and columns."""
        of_x, of_seen, _, _, *wanted = ctx.needs_input_grad
        *saved, W_OI = ctx.saved_tensors
        dz_TR, rest = _gradients(gradients[0], saved, wanted)
        if ctx.whole:
            return (dz_TR @ saved[2]).addmm_(gradients[0], W_OI) if of_x else None, None, None, None, *rest
        return gradients[0] @ W_OI if of_x else None, dz_TR @ saved[2] if of_seen else None, None, None, *rest


class LowRankUpdate(torch.autograd.Function):
    """y + ((x A^T) * columns) B^T in the precision of y: for a base that computes y in its own way."""

    @staticmethod
    def forward(ctx: Any, y_TO: Tensor, x_TI: Tensor, A_RI: Tensor, B_OR: Tensor, columns: Tensor) -> Tensor:
        """Return (T, d_out)."""
        B_OR = B_OR.to(y_TO.dtype)
        scaled_TR = _keep(ctx, x_TI.to(y_TO.dtype), A_RI, B_OR, columns)
        return torch.addmm(y_TO, scaled_TR, B_OR.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """Gradients of y, x, A, B and columns."""
        _, of_x, *wanted = ctx.needs_input_grad
        dz_TR, rest = _gradients(gradients[0], ctx.saved_tensors, wanted)
        return gradients[0], dz_TR @ ctx.saved_tensors[2] if of_x else None, *rest


class RouterLogits(torch.autograd.Function):
    """x router^T in the router's precision, single or better, whatever that of x."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, router_EI: Tensor) -> Tensor:
        """Return (T, E)."""
        ctx.save_for_backward(x_TI, router_EI)
        with torch.autocast(x_TI.device.type, enabled=False):
            return x_TI.to(router_EI.dtype) @ router_EI.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """Gradients of both."""
        x_TI, router_EI = ctx.saved_tensors
        d_TE = gradients[0]
        of_x = (d_TE @ router_EI).to(x_TI.dtype) if ctx.needs_input_grad[0] else None
        return of_x, d_TE.T @ x_TI.to(router_EI.dtype)


def _keep(ctx: Any, x_TI: Tensor, A_RI: Tensor, B_OR: Tensor, columns: Tensor, *further: Tensor) -> Tensor:
    """Compute z * columns in the precision of x, and save what the backward pass needs."""
    A_RI, B_OR, columns = (part.to(x_TI.dtype) for part in (A_RI, B_OR, columns))
    z_TR = x_TI @ A_RI.T
    ctx.save_for_backward(x_TI, z_TR, A_RI, B_OR, columns, *further)
    return z_TR * columns


def _gradients(d_TO: Tensor, saved: Any, wanted: Any) -> tuple[Tensor, Gradients]:
    """The gradient of z, and those of A, B and columns; autograd turns each into the precision of what it belongs to."""
    x_TI, z_TR, _, B_OR, columns = saved
    of_A, of_B, of_columns = wanted
    update_TR = d_TO @ B_OR
    dz_TR = update_TR * columns
    return dz_TR, (
        dz_TR.T @ x_TI if of_A else None,
        d_TO.T @ (z_TR * columns) if of_B else None,
        (update_TR * z_TR).sum_to_size(columns.shape) if of_columns else None,
    )
