"""`kaiming`: A random and B zero, as in LoRA (Hu et al., arXiv 2106.09685)."""

from trainer.initializers.layer import NewLayer


def kaiming(layer: NewLayer) -> None:
    """Leave the layer as it was made: A Kaiming-uniform, B zero. Drawing again would only move every later random number."""
