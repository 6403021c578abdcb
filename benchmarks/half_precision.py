"""Attention over short sequences and RMSNorm in bf16 on a CPU: ours beside what models use, forward and backward.

    python benchmarks/half_precision.py [--rounds 15]

Shapes are SmolLM2-135M's: 9 heads in 3 groups of side 64, width 576. Medians of ratios over rounds, alternating in one process.
"""

import argparse
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from mixture import ratio
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from planner.modules.attention import attention
from planner.modules.norms import use_fused_norms

TOKENS = 1024  # in a batch, however long its sequences


def pass_through(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Forward and backward once."""
    leaves = [part.detach().requires_grad_() for part in inputs]
    made = function(*leaves)
    made.backward(torch.ones_like(made))  # type: ignore[no-untyped-call]


def shown(found: tuple[float, float, float]) -> str:
    """Median and range."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*found)


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    layer = SimpleNamespace(is_causal=True, num_key_value_groups=3, training=True)
    for length in (32, 64, 128, 256):
        batch = TOKENS // length
        q, k, v = (torch.randn(batch, heads, length, 64).bfloat16() for heads in (9, 3, 3))
        # Rows of unlike length, so that there is a mask, as in every batch of a dataset.
        seen = torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1))
        mask = (torch.ones(length, length, dtype=torch.bool).tril() & seen[:, None, :])[:, None]
        ours = partial(pass_through, lambda *qkv, mask=mask: attention(layer, *qkv, mask)[0], q, k, v)  # type: ignore[arg-type]
        theirs = partial(pass_through, lambda *qkv, mask=mask: sdpa_attention_forward(layer, *qkv, mask)[0], q, k, v)
        print(f"attention, {batch} sequences of {length}: {shown(ratio(ours, theirs, rounds, 'cpu'))} of torch's time")
    x = torch.randn(TOKENS, 576).bfloat16()
    plain = LlamaRMSNorm(576).bfloat16().requires_grad_(False)
    fused = LlamaRMSNorm(576).bfloat16().requires_grad_(False)
    use_fused_norms(fused)
    found = ratio(partial(pass_through, fused, x), partial(pass_through, plain, x), rounds, "cpu")
    print(f"RMSNorm: {shown(found)} of transformers' time")


if __name__ == "__main__":
    main()
