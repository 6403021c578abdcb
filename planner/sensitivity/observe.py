"""An identity on a module's output whose backward pass hands over the module's inputs and the gradient of its output.

The inputs are saved through autograd, as a LoRA on the module would save them, so gradient checkpointing drops and recomputes
them like everything else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Taker = Callable[[Tensor, Tensor], None]


class Observe(torch.autograd.Function):
    """Identity on a module's output that calls `taker(inputs, output gradients)` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, taker: Taker) -> Tensor:
        """Keep the inputs."""
        # Not as an attribute of ctx: only what is saved here is dropped and recomputed under gradient checkpointing.
        ctx.save_for_backward(inputs)
        ctx.taker = taker
        return output.view_as(output)  # a tensor of its own; autograd treats a returned input specially

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Hand over both, and pass the gradient on."""
        (inputs,) = ctx.saved_tensors
        ctx.taker(inputs, gradients[0])
        return gradients[0], None, None
