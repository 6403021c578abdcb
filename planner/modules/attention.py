"""Attention over short sequences on a CPU in half precision, as plain products.

torch's own kernel takes about seven times as long there, forward and back, on sequences of 32 to 64 tokens and free cores
(benchmarks/half_precision.py). Where it is the faster one, it is left its work: long sequences, GPUs, single precision.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "loraplan"  # of our entries in transformers' tables
LONGEST = 256  # tokens up to which products are the faster way, forward and backward


def use_products(model: Any) -> None:
    """Let a transformers model attend through `attention`, if it attends through torch's own function now."""
    if model.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
        model.set_attn_implementation(NAME)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """An entry of transformers' table of attention functions.

    Args:
        module: the attention layer.
        query: (batch, heads, tokens, side).
        key: (batch, groups, tokens seen, side), each group of heads sharing one.
        value: like the key.
        attention_mask: (batch or 1, 1, tokens, tokens seen), booleans or what is added to the logits; None for a causal one.
        options: `scaling`, `dropout`, `is_causal`, and what other functions take.

    Returns:
        (batch, tokens, heads, side), and None in the place of attention weights.
    """
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.to(query.dtype)  # torch takes no other; masks that collators make are float32
    half = query.dtype in (torch.bfloat16, torch.float16)
    short = query.requires_grad and key.shape[2] <= LONGEST and not options.get("dropout")
    if half and short and query.device.type == "cpu":
        causal = options.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        return _products(query, key, value, attention_mask, options.get("scaling"), causal), None
    found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return found


def _products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, causal: bool) -> Tensor:
    batch, heads, tokens, side = query.shape
    if mask is None and causal and tokens > 1:
        mask = torch.ones(tokens, key.shape[2], dtype=torch.bool).tril(key.shape[2] - tokens)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
    found: Tensor = Products.apply(query, key, value, mask, side**-0.5 if scaling is None else scaling)  # type: ignore[no-untyped-call]
    return found.view(batch, heads, tokens, side).transpose(1, 2).contiguous()


class Products(torch.autograd.Function):
    """softmax(scaling q k^T + mask) v, its heads grouped, in the precision of q.

    The heads of a group lie side by side: seen as one longer sequence they share their key without copies of it. One tensor of
    the logits' size is kept, the softmax, and everything else of that size is made in place.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Return (batch x groups, heads of a group x tokens, side)."""
        batch, heads, tokens, side = query.shape
        groups, seen = key.shape[1:3]
        q, k, v = query.reshape(batch * groups, -1, side), key.reshape(-1, seen, side), value.reshape(-1, seen, side)
        logits = _scaled(q, k.mT, scaling)
        if mask is not None:
            logits.view(batch, heads, tokens, seen).add_(mask)
        weights = logits.softmax(-1)  # computed in single precision, rounded once
        ctx.save_for_backward(q, k, v, weights)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape)
        return weights @ v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of q, k and v."""
        q, k, v, weights = ctx.saved_tensors
        of_query, of_key = ctx.shapes
        d = gradients[0]
        d_logits = torch._softmax_backward_data(d @ v.mT, weights, -1, weights.dtype)
        return (
            _scaled(d_logits, k, ctx.scaling).view(of_query),
            _scaled(d_logits.mT, q, ctx.scaling).view(of_key),
            (weights.mT @ d).view(of_key),
            None,
            None,
        )


def _scaled(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """`scaling` a b in one product."""
    return torch.baddbmm(a.new_empty(1), a, b, beta=0, alpha=scaling)
