"""`kaiming`: A random and B zero, as in LoRA (Hu et al., arXiv 2106.09685)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.layers.mixture import MixtureLinear


def kaiming(layer: "MixtureLinear") -> None:
    """Leave the layer as it was made: A Kaiming-uniform, B zero. Drawing again would only move every later random number."""
