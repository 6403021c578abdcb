"""Which adapters bring what a run gained.

With L(s) the held-out loss when the adapter of module m is scaled by s_m, the loss reduction of module m is

    - integral over t from 0 to 1 of dL/ds_m at s = (t, ..., t),

the value of Aumann and Shapley (integrated gradients, Sundararajan et al., arXiv 1703.01365): over all modules it sums to what
the adapters take off the loss. A few backward passes over a sample give it for every module at once, however many there are. The
sum is known from two forward passes, and what the integral's few points leave of it is shared out in proportion to their values.
Where a router of the base model changes its choice on the way the loss jumps, and a jump belongs to no module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planner import labelled_losses
from trainer.layers.expert_lora import buffer_name, expert_loras
from trainer.layers.mixture import mixtures

Batches = list[dict[str, Tensor]]
# Of Gauss and Legendre's rule. A real model's loss falls steeply over a short part of the way, which a few points miss; with the
# sum known, what remains is a tenth of the mean value (benchmarks/study/quadrature.py).
POINTS = 3


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


def attribute(model: Any, found: list[AdapterScale], sample: Batches, progress: Callable[[int], None] | None = None) -> Tensor:
    """Attribute what a model's adapters take off the loss.

    Args:
        model: with trained adapters; left as it was found, but for gradients, which no parameter wants any more.
        found: what scales them.
        sample: batches with labels.
        progress: called with the points of the integral done.

    Returns:
        (batches, sites) in float64: each site's loss reduction on each batch.
    """
    # Parameters want no gradient, so the backward pass computes none but those of the scales.
    model.eval().requires_grad_(False)
    shares = torch.zeros(len(sample), sum(len(scale.sites) for scale in found), dtype=torch.float64)
    device = next(model.parameters()).device
    # For the interval from -1 to 1: moved to 0 to 1 below, where the weights are halved.
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    for done, (node, weight) in enumerate(zip(nodes, weights, strict=True), 1):
        for row, batch in enumerate(sample):
            # All adapters stand at the same point of the way, so one backward pass gives every site's slope there.
            with scaled(found, (node + 1) / 2) as leaves:
                # A scale that this batch's loss does not depend on has slope zero, and is no error.
                slopes = torch.autograd.grad(_loss(model, batch, device), leaves, allow_unused=True, materialize_grads=True)
            shares[row] -= torch.cat(slopes).double().cpu() * (weight / 2)
        if progress:
            progress(done)
    return _completed(shares, _reductions(model, found, sample, device))


def _reductions(model: Any, found: list[AdapterScale], sample: Batches, device: torch.device) -> Tensor:
    """(batches,): what all adapters together take off the loss of each batch."""
    ends = []
    for to in (0.0, 1.0):
        with scaled(found, to), torch.no_grad():
            ends.append([float(_loss(model, batch, device)) for batch in sample])
    without, whole = (torch.tensor(losses, dtype=torch.float64) for losses in ends)
    return without - whole


def _completed(shares: Tensor, sums: Tensor) -> Tensor:
    """Values (batches, sites) whose sums over sites are as given, changed in proportion to their sizes."""
    sizes = shares.abs()
    # Where nothing moved there is nothing to share out either.
    parts = sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)
    return shares + (sums - shares.sum(1))[:, None] * parts


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
