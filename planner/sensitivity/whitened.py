"""Effective rank of a module's whitened mean gradient: how many directions of change the task asks of it.

With G the mean over examples of the loss gradient of a weight, (d_out, d_in), and C the mean x x^T of its inputs, the gradient as
it acts on inputs of unit covariance is M = G (C + lambda I)^(-1/2). Its effective rank is the exponential of the entropy of its
squared singular values, normalised to sum to 1 (Roy and Vetterli, EUSIPCO 2007). As a score for where rank should go it is
R. Lin's (early-gradient-spectra-lora, 2026), lambda among it: a thousandth of the mean input power.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from planner.sensitivity.observe import Observe

RIDGE = 1e-3  # lambda over the mean of C's diagonal


def effective_rank(gradient: Tensor, covariance: Tensor) -> float:
    """Effective rank of a whitened gradient.

    Args:
        gradient: (d_out, d_in), any scale.
        covariance: (d_in, d_in), symmetric and positive semi-definite, any scale.

    Returns:
        Between 1 and min(d_out, d_in); NaN for a gradient of zeros, which has no directions, and for what is not finite.
    """
    G_OI, C_II = gradient.double(), covariance.double()
    if not (G_OI.isfinite().all() and C_II.isfinite().all()):
        return float("nan")
    ridge = RIDGE * C_II.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    # M M^T = G (C + lambda I)^-1 G^T. With the Cholesky factor L of the inverse's argument, L^-1 G^T has M's singular values.
    factor = torch.linalg.cholesky(C_II + ridge * torch.eye(len(C_II), dtype=C_II.dtype, device=C_II.device))
    M_IO = torch.linalg.solve_triangular(factor, G_OI.mT, upper=False)
    gram = M_IO.mT @ M_IO if M_IO.shape[1] <= M_IO.shape[0] else M_IO @ M_IO.mT
    squared = torch.linalg.eigvalsh(gram).clamp_min(0)  # a Gram matrix has no negative ones but by rounding
    if not squared.sum() > 0:
        return float("nan")
    shares = squared / squared.sum()
    return float(torch.special.entr(shares).sum().exp())


class WhitenedGradients:
    """Sums of gradients and of input covariances of linear modules, gathered over backward passes."""

    def __init__(self, linears: Mapping[str, nn.Module]) -> None:
        """Prepare to watch some linear modules by name."""
        self._linears = linears
        self._gradients: dict[str, Tensor] = {}
        self._covariances: dict[str, Tensor] = {}
        self._real: Tensor | None = None

    def begin(self, mask: Tensor | None) -> None:
        """Announce a batch: (batch, tokens), which are no padding; None if all are."""
        self._real = mask

    def effective_ranks(self) -> dict[str, float]:
        """Name -> effective rank of its whitened gradient."""
        return {name: effective_rank(self._gradients[name], self._covariances[name]) for name in self._gradients}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch every backward pass until left."""
        hooks = [module.register_forward_hook(partial(self._watch, name)) for name, module in self._linears.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        real = self._real

        def take(x: Tensor, d: Tensor) -> None:
            x_TI, d_TO = (part.reshape(-1, part.shape[-1]).float() for part in (x, d))
            # The gradient at padding is zero already; only the covariance would count it.
            seen_TI = x_TI[real.reshape(-1).bool()] if real is not None and real.numel() == len(x_TI) else x_TI
            for sums, part in ((self._gradients, d_TO.mT @ x_TI), (self._covariances, seen_TI.mT @ seen_TI)):
                sums[name] = sums[name].add_(part) if name in sums else part

        watched: Tensor = Observe.apply(output, inputs[0].detach(), take)  # type: ignore[no-untyped-call]
        return watched
