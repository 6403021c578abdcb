"""Random numbers of new adapters: for every expert a generator of its own, so that no draw depends on what was drawn elsewhere.

Runs that are compared should begin alike as far as their shapes allow. One stream of numbers for a whole model would give every
layer after the first difference in rank other numbers.
"""

import hashlib
import math

import torch
from torch import Tensor


def generator_of(seed: int | None, *where: object) -> torch.Generator | None:
    """A generator for a seed and a place, such as a site's name and an expert's number; torch's own, None, without a seed."""
    if seed is None:
        return None
    digest = hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)  # signed on torch's side


@torch.no_grad()
def draw_uniform(rows: Tensor, generator: torch.Generator | None = None) -> None:
    """Fill rows of A, (..., d_in), with values uniform within 1 / sqrt(d_in): Kaiming's with a = sqrt 5, as LoRA does."""
    bound = 1 / math.sqrt(rows.shape[-1])
    # Drawn on the CPU and in its generator's order, so that the values are the same whatever the device.
    rows.copy_(bound * (2 * torch.rand(rows.shape, generator=generator) - 1))
