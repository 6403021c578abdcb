"""RMSNorm on a CPU in half precision, in under half the time of the operators that models are written with.

Written with operators, a pass forward and back converts to single precision and back, and makes a tensor as large as its input at
every turn (benchmarks/half_precision.py). Here each direction is a few kernels that convert on the way.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def use_fused_norms(model: nn.Module) -> None:
    """Let the frozen RMSNorms of a model in half precision on a CPU work through `RMSNorm`, those whose formula is exactly it."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and _is_plain(module):
            module.forward = MethodType(_forward, module)


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, rounded before the weight as models do; weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """Return (T, D) in the precision of x."""
        squares_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale_T1 = squares_T1.div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        y_TD: Tensor = (x_TD * scale_T1).to(x_TD.dtype)
        return y_TD.mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        d_TD = gradients[0].contiguous()
        # LayerNorm's kernel, told that the mean is 0, computes scale * (d w - x' mean(d w x') - mean(d w)), x' being the
        # normalised input. The last term, which comes from the mean's own gradient, is not RMSNorm's.
        single_D = weight_D.float()
        made = torch.ops.aten.native_layer_norm_backward(
            d_TD, x_TD, [x_TD.shape[-1]], torch.zeros_like(scale_T1), scale_T1, single_D, None, [True, False, False]
        )[0]
        means_T = (d_TD @ weight_D).float().div_(x_TD.shape[-1])
        return made.add_((means_T[:, None] * scale_T1).to(made.dtype)), None, None


def _forward(self: Any, x: Tensor) -> Tensor:
    # Asked at every call: a model may move to a GPU, or learn its norms, after it was loaded.
    fits = x.device.type == "cpu" and x.dtype == self.weight.dtype and not self.weight.requires_grad
    if not (fits and x.requires_grad):
        return type(self).forward(self, x)  # type: ignore[no-any-return]
    x_TD = x.reshape(-1, x.shape[-1])
    return RMSNorm.apply(x_TD, self.weight, _eps(self)).view(x.shape)  # type: ignore[no-any-return, no-untyped-call]


def _eps(module: Any) -> Any:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _is_plain(module: Any) -> bool:
    """Whether it computes what `RMSNorm` computes, which some of this name do not: Gemma's adds one to its weight."""
    weight, eps = getattr(module, "weight", None), _eps(module)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(eps, float):
        return False
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16):
        return False
    x_TD = torch.linspace(-2, 2, 3 * len(weight), dtype=weight.dtype).view(3, -1)
    with torch.no_grad():
        return torch.allclose(RMSNorm.apply(x_TD, weight, eps), module(x_TD), rtol=1e-2, atol=1e-3)  # type: ignore[no-untyped-call]
