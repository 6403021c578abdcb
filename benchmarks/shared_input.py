"""Would one product for the A and routers of query, key and value pay?

    python benchmarks/shared_input.py [--device cuda] [--dtype bfloat16] [--rounds 15]

Three adapted layers with the same input, forward and backward, beside the same mathematics with the three thin products done as
one. Ratios are medians over rounds, alternating in one process. The fused form is the most that sharing could win: it has
no bookkeeping between modules.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from mixture import ratio
from torch import Tensor, nn

from trainer import MixtureLinear

RANKS = (4, 4, 4, 4)
SHAPES = [(1024, 1024), (1024, 4096), (4096, 1024)]


def apart(layers: list[MixtureLinear], x: Tensor) -> list[Tensor]:
    """As the product does it."""
    return [layer(x) for layer in layers]


def together(layers: list[MixtureLinear], x: Tensor) -> list[Tensor]:
    """One product for everything that reads x and is thin."""
    thin = torch.cat([part for layer in layers for part in (layer.A, layer.router)])
    found, outputs = x @ thin.T, []
    for layer, columns in zip(layers, found.split([len(layer.A) + len(layer.router) for layer in layers], 1), strict=True):
        z, logits = columns[:, : len(layer.A)], columns[:, len(layer.A) :]
        outputs.append(torch.addmm(layer.base(x), z * (layer.gates(logits) @ layer.scaling), layer.B.T))
    return outputs


def step(form: Callable[[list[MixtureLinear], Tensor], list[Tensor]], layers: list[MixtureLinear], x: Tensor) -> None:
    """Forward and backward."""
    sum(y.square().sum() for y in form(layers, x)).backward()
    x.grad = None
    for layer in layers:
        layer.zero_grad(set_to_none=True)


def main() -> None:
    """Print a ratio per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    kind = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    for side, tokens in SHAPES:
        layers = [MixtureLinear(nn.Linear(side, side, bias=False, **kind), RANKS, top_k=2).to(**kind) for _ in range(3)]
        for layer in layers:
            nn.init.normal_(layer.B, std=0.01)
        x = torch.randn(tokens, side, requires_grad=True, **kind)
        for one, other in zip(apart(layers, x), together(layers, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
        runs = [partial(step, form, layers, x) for form in (together, apart)]
        middle, low, high = ratio(*runs, options.rounds, options.device)
        print(f"side {side}, {tokens} tokens: one product takes {middle:.3f} of three [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
