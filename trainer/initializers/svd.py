"""Experts that start from segments of the weight's own singular vectors (GOAT, arXiv 2502.16894; with one expert PiSSA's idea).

Expert e of E gets the singular triplets from e * side / E on: B_e = U_e sqrt(S_e / (s_e rho)), A_e = sqrt(S_e / (s_e rho))
V_e^T. What they add on average, sum_e (s_e / E) B_e A_e, is subtracted from the frozen weight, so that training starts where the
base is: exactly with one expert, in the mean over even gates with several. The starting values are kept (A0, B0), because only
with them is the difference to the original weight known.
"""

import torch
from torch import Tensor, nn

from planner.modules.linear import add_to_weight, dense_weight
from spectra import InputError
from trainer.layers.mixture import MixtureLinear

RHO = 10.0  # GOAT's constant


@torch.no_grad()
def start_from_svd(layer: MixtureLinear, site: str) -> None:
    """Give a new mixture its segments and subtract them from its base.

    Raises:
        InputError: a quantised base, or more rank than the weight has.
    """
    weight = layer.base.weight
    assert isinstance(weight, Tensor)
    side, experts = min(layer.A.shape[1], layer.B.shape[0]), len(layer.ranks)
    if not weight.is_floating_point():
        raise InputError(f"site {site!r}: --init svd needs an unquantised base")
    U, S, Vh = torch.linalg.svd(dense_weight(layer.base, layer.A.dtype), full_matrices=False)
    A, B = [], []
    for expert, (rank, scaling) in enumerate(zip(layer.ranks, layer.scalings, strict=True)):
        first = min(expert * (side // experts), side - rank)
        segment = slice(first, first + rank)
        size = (S[segment] / (scaling * RHO)).sqrt()
        A.append(size[:, None] * Vh[segment])
        B.append(U[:, segment] * size)
    layer.A.copy_(torch.cat(A))
    layer.B.copy_(torch.cat(B, dim=1))
    layer.register_buffer("A0", layer.A.detach().clone())
    layer.register_buffer("B0", layer.B.detach().clone())
    add_to_weight(layer.base, -_share(layer))


@torch.no_grad()
def settle(layer: MixtureLinear, A0: Tensor, B0: Tensor) -> None:
    """Make the base what it was when a run began: singular vectors found on another machine may differ."""
    if not torch.equal(layer.A0, A0) or not torch.equal(layer.B0, B0):
        add_to_weight(layer.base, _share(layer))
        layer.A0.copy_(A0)
        layer.B0.copy_(B0)
        add_to_weight(layer.base, -_share(layer))


def _share(layer: MixtureLinear) -> Tensor:
    """What the starting experts add at even gates, (d_out, d_in)."""
    columns = layer.scaling.double().sum(0) / len(layer.ranks)
    return (layer.B0.double() * columns) @ layer.A0.double()


def started(model: nn.Module) -> dict[str, MixtureLinear]:
    """The mixtures that began this way, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear) and hasattr(module, "A0")}
