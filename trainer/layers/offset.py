"""Mixtures that do not start at zero: what their experts add at the start is subtracted from the frozen weight.

With A0 and B0 the starting values, the base loses sum_e (s_e / E) B0_e A0_e: what the experts add on average. So training starts
where the base is, exactly with one expert, in the mean over even gates with several. The starting values are kept in the layer,
because only with them is the difference from the original weight known.
"""

import torch
from torch import Tensor, nn

from planner.modules.linear import add_to_weight
from spectra import InputError
from trainer.layers.mixture import MixtureLinear


@torch.no_grad()
def subtract_start(layer: MixtureLinear, site: str) -> None:
    """Take what a layer's experts add now off its base, and keep their values; nothing where B is zero.

    Raises:
        InputError: a quantised base, which cannot be changed.
    """
    if not layer.B.any():
        return
    weight = layer.base.weight
    assert isinstance(weight, Tensor)
    if not weight.is_floating_point():
        raise InputError(f"site {site!r}: this `init` changes the base's weight, which is quantised; use an unquantised base")
    layer.register_buffer("A0", layer.A.detach().clone())
    layer.register_buffer("B0", layer.B.detach().clone())
    add_to_weight(layer.base, -_start(layer))


@torch.no_grad()
def restore_start(layer: MixtureLinear, A0: Tensor, B0: Tensor) -> None:
    """Make the base what it was when a run began: singular vectors found on another machine may differ."""
    # Equal values, the usual case, leave the base alone: giving back and taking off again would only add rounding.
    if not torch.equal(layer.A0, A0) or not torch.equal(layer.B0, B0):
        # The order matters: `_start` reads A0 and B0, the old ones for giving back, the new ones for taking off.
        add_to_weight(layer.base, _start(layer))
        layer.A0.copy_(A0)
        layer.B0.copy_(B0)
        add_to_weight(layer.base, -_start(layer))


def _start(layer: MixtureLinear) -> Tensor:
    """Update that the starting experts add at even gates, (d_out, d_in)."""
    # A column of scaling holds its owner's alone, so the sum over experts is (R,), one factor a column; even gates are 1 / E.
    columns = layer.scaling.double().sum(0) / len(layer.ranks)
    return (layer.B0.double() * columns) @ layer.A0.double()


def offset_mixtures(model: nn.Module) -> dict[str, MixtureLinear]:
    """The mixtures that did not start at zero, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MixtureLinear) and hasattr(module, "A0")}
