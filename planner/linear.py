"""What counts as a linear module: torch's own, and GPT-2's Conv1D, which keeps its weight as (in, out)."""

from torch import nn
from transformers.pytorch_utils import Conv1D


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear module; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        d_in, d_out = module.weight.shape
        return d_out, d_in
    return None
