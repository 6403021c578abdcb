"""Which adapters bring what a run gained.

With L(s) the held-out loss when the adapter of module m is scaled by s_m, the loss reduction of module m is

    - integral over t from 0 to 1 of dL/ds_m at s = (t, ..., t),

the value of Aumann and Shapley (integrated gradients, Sundararajan et al., arXiv 1703.01365): over all modules it sums to what
the adapters take off the loss. A few backward passes over a sample give it for every module at once, however many there are.

What the sum has to be is known from forward passes, on the whole way and on any part of it. So the integral is refined where it
is wrong: the part that misses most is halved, until all parts together miss less than a twentieth. What is then left is shared
out in proportion to the modules' values. Where a router of the base model changes its choice on the way the loss jumps, and a
jump belongs to no module: there the refinement ends at `MOST` points, and the gap that remains is reported.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planner import labelled_losses
from planner.sensitivity.report import COMPLETE
from trainer.layers.expert_lora import buffer_name, expert_loras
from trainer.layers.mixture import mixtures

Batches = list[dict[str, Tensor]]
POINTS = 3  # of Gauss and Legendre's rule, on each part of the way
MOST = 39  # points in all: a real model's loss falls steeply over a short part of the way, and takes 9 to 21


@dataclass(frozen=True, slots=True)
class AdapterScale:
    """A tensor of factors inside an adapter that scales it: of one module, or of all experts of a layer."""

    module: nn.Module
    attribute: str
    full: Tensor
    sites: tuple[str, ...]


def adapter_scales(model: nn.Module) -> list[AdapterScale]:
    """The scales of all adapters of a model without LoRA routers."""
    found = [AdapterScale(mixture, "scaling", mixture.scaling, (name,)) for name, mixture in mixtures(model).items()]
    for name, lora in expert_loras(model).items():
        experts = name.rpartition(".")[0]
        for part, ranks in lora.ranks.items():
            sites = tuple(f"{experts}.{expert}.{part}" for expert in range(len(ranks)))
            found.append(AdapterScale(lora, buffer_name(part), lora.scaling(part), sites))
    return found


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each site took off the loss, and how much of the sum the integral itself found."""

    shares: Tensor
    """(batches, sites) in float64: each site's loss reduction on each batch; a row sums to what all adapters took off."""
    gap: float
    """What the integral missed before the rest was shared out, as a share of the mean loss reduction; parts do not cancel."""
    points: int
    """Points of the integral."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the way from no adapters to all of them."""

    begin: float
    end: float
    shares: Tensor
    """(batches, sites)."""
    missing: Tensor
    """(batches,): the loss that falls over this part, less what the shares say of it."""

    @property
    def error(self) -> float:
        return abs(float(self.missing.mean()))


def attribute(
    model: Any, found: list[AdapterScale], sample: Batches, progress: Callable[[int], None] | None = None
) -> Attribution:
    """Attribute what a model's adapters take off the loss.

    Args:
        model: with trained adapters; left as it was found, but for gradients, which no parameter wants any more.
        found: what scales them.
        sample: batches with labels.
        progress: called with the points of the integral done.
    """
    # Parameters want no gradient, so the backward pass computes none but those of the scales.
    model.eval().requires_grad_(False)
    losses = {at: _losses(model, found, sample, at) for at in (0.0, 1.0)}
    reduction = losses[0.0] - losses[1.0]
    points = 0

    def part(begin: float, end: float) -> _Part:
        nonlocal points
        shares = _integral(model, found, sample, begin, end)
        points += POINTS
        if progress:
            progress(points)
        return _Part(begin, end, shares, losses[begin] - losses[end] - shares.sum(1))

    def gap() -> float:
        return sum(one.error for one in parts) / max(abs(float(reduction.mean())), torch.finfo(torch.float64).tiny)

    parts = [part(0.0, 1.0)]
    # A model that is not finite is refused by the caller; NaN ends the loop, because no comparison with it is true.
    while gap() > COMPLETE and points + 2 * POINTS <= MOST:
        worst = max(parts, key=lambda one: one.error)
        middle = (worst.begin + worst.end) / 2
        losses[middle] = _losses(model, found, sample, middle)
        parts.remove(worst)
        parts += [part(worst.begin, middle), part(middle, worst.end)]
    shares = torch.stack([_completed(one.shares, one.missing) for one in parts]).sum(0)
    return Attribution(shares=shares, gap=gap(), points=points)


def _integral(model: Any, found: list[AdapterScale], sample: Batches, begin: float, end: float) -> Tensor:
    """(batches, sites) in float64: minus the slopes, integrated over a part of the way."""
    shares = torch.zeros(len(sample), sum(len(scale.sites) for scale in found), dtype=torch.float64)
    device = next(model.parameters()).device
    # For the interval from -1 to 1: moved below, where the weights shrink with it.
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    for node, weight in zip(nodes, weights, strict=True):
        for row, batch in enumerate(sample):
            # All adapters stand at the same point of the way, so one backward pass gives every site's slope there.
            with scaled(found, begin + (end - begin) * (node + 1) / 2) as leaves:
                # A scale that this batch's loss does not depend on has slope zero, and is no error.
                slopes = torch.autograd.grad(_loss(model, batch, device), leaves, allow_unused=True, materialize_grads=True)
            shares[row] -= torch.cat(slopes).double().cpu() * (weight * (end - begin) / 2)
    return shares


def _losses(model: Any, found: list[AdapterScale], sample: Batches, at: float) -> Tensor:
    """(batches,) in float64: the losses at a point of the way."""
    device = next(model.parameters()).device
    with scaled(found, at), torch.no_grad():
        return torch.tensor([float(_loss(model, batch, device)) for batch in sample], dtype=torch.float64)


def _completed(shares: Tensor, missing: Tensor) -> Tensor:
    """Values (batches, sites) with (batches,) more in all, shared out in proportion to their sizes."""
    sizes = shares.abs()
    # Where nothing moved there is nothing to share out either.
    parts = sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)
    return shares + missing[:, None] * parts


def _loss(model: Any, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    inputs = {key: value.to(device) for key, value in batch.items()}
    loss: Tensor = labelled_losses(model, inputs, inputs.pop("labels")).mean()
    return loss


@contextmanager
def scaled(found: list[AdapterScale], to: float) -> Iterator[list[Tensor]]:
    """Scale all adapters by one number, and hand out the leaves whose gradients say what a little more of each would do."""
    leaves = [scale.full.new_full((len(scale.sites),), to, requires_grad=True) for scale in found]
    try:
        # Also for a caller who has switched gradients off.
        with torch.enable_grad():
            for scale, leaf in zip(found, leaves, strict=True):
                # A tensor of the graph stands in for the buffer; the layers use it like any scaling.
                setattr(scale.module, scale.attribute, scale.full * leaf)
            yield leaves
    finally:
        for scale in found:
            setattr(scale.module, scale.attribute, scale.full)
