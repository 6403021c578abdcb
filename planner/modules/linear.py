"""Linear modules: torch's own with its quantised kin, and GPT-2's Conv1D, which keeps its weight as (in, out)."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a linear module; None for anything else."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, Conv1D):
        d_in, d_out = module.weight.shape
        return d_out, d_in
    return None


def add_to_weight(module: nn.Module, update_OI: Tensor) -> None:
    """Add to a linear module's weight in place, in double precision.

    Args:
        module: one that has a `linear_shape`, not quantised.
        update_OI: (d_out, d_in).
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    update = update_OI.T if isinstance(module, Conv1D) else update_OI
    # The sum is rounded once. In bfloat16 the update alone would be rounded first, and the sum again.
    weight.copy_((weight.double() + update.double()).to(weight.dtype))


def dense_weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """A linear module's weight as (d_out, d_in), dequantised if it is stored as bitsandbytes codes.

    Args:
        module: one that has a `linear_shape`.
        dtype: what to return it in.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    # 4-bit weights carry quant_state. 8-bit ones carry SCB, and the rest of their state lies on the module.
    if hasattr(weight, "quant_state") or hasattr(weight, "SCB"):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        weight = dequantize_bnb_weight(weight, state=getattr(module, "state", None))
    values = weight.detach().to(dtype)
    return values.T if isinstance(module, Conv1D) else values
