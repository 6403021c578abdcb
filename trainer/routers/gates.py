"""A router's context and its answer. Like all of this folder it loads no torch: tensors bring their own operations.

Shapes: T tokens, E experts, k experts per token. Everything has a static shape and nothing waits for the device.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterContext:
    """Facts that a router may need beside the logits."""

    top_k: int
    training: bool = False
    token_mask: "Tensor | None" = None
    """(T,), which tokens are no padding; None if all are."""


class Gates(NamedTuple):
    """A router's answer, both (T, E)."""

    gates: "Tensor"
    """How much each expert counts for each token; 0 where it is not used."""
    picked: "Tensor"
    """The same before a capacity limit turned tokens away."""
