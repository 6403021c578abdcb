"""The layer that an initialisation fills, as far as it needs to know it."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class NewLayer(Protocol):
    """A mixture of E experts that was just made; R is its total rank."""

    base: "nn.Module"
    """The frozen linear layer."""
    A: "nn.Parameter"
    """(R, d_in), random."""
    B: "nn.Parameter"
    """(d_out, R), zero."""
    ranks: tuple[int, ...]
    scalings: tuple[float, ...]
    scaling: "Tensor"
    """(E, R), an expert's scaling in its own columns."""
