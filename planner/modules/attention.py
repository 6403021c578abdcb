"""Attention over short sequences on a CPU in half precision, as plain products.

torch's own kernel takes seven times as long there in its backward pass (sequences of 50 tokens, benchmarks/attention.py), a third
of a training step on short examples. Where it is the faster one, it is left its work: long sequences, GPUs, single precision.
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
    groups, seen = key.shape[1:3]
    # The heads of a group lie side by side: seen as one longer sequence they share their key without copies of it.
    logits = (query.reshape(batch, groups, -1, side) @ key.mT).view(batch, heads, tokens, seen)
    logits = logits * (side**-0.5 if scaling is None else scaling)
    if mask is None and causal and tokens > 1:
        mask = torch.ones(tokens, seen, dtype=torch.bool).tril(seen - tokens)
    if mask is not None:
        logits = (
            logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
            if mask.dtype == torch.bool
            else logits + mask.to(logits.dtype)
        )
    weights = logits.softmax(-1, dtype=torch.float32).to(value.dtype).view(batch, groups, -1, seen)
    return (weights @ value).view(batch, heads, tokens, side).transpose(1, 2).contiguous()
