"""MixtureLinear beside PEFT's LoRA of the same total rank, beside MoLA's own expert loop, and as experts grow at constant rank.

    python benchmarks/mixture.py [--device cuda] [--dtype bfloat16] [--rounds 7] [--mola PATH/TO/mola_lora_hacked.py] [--full]

Forward and backward of one adapted linear layer with 8 experts of mixed ranks (64 in all), top-2. Time is the median over rounds
of ours / theirs, alternating in one process; memory is what forward and backward allocate at their peak (torch's profiler on
a CPU, the allocator on a GPU). MoLA's layer, which AlphaLoRA uses too, is executed from a checkout of GCYZSL/MoLA that you name;
its experts all have rank 8.
"""

import argparse
import ast
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer import MixtureLinear

RANKS = (2, 3, 5, 8, 8, 12, 16, 10)
SMALL = [(1024, 1024), (1024, 4096), (1024, 16384), (4096, 1024), (4096, 4096), (8192, 1024)]
FULL = [(d, tokens) for d in (1024, 2048, 4096, 8192) for tokens in (1024, 4096, 16384)]
Step = Callable[[], None]


def ours(base: nn.Linear, ranks: tuple[int, ...] = RANKS) -> nn.Module:
    """Our layer."""
    return MixtureLinear(base, ranks, top_k=min(2, len(ranks))).to(base.weight.device)


def pefts(base: nn.Linear) -> nn.Module:
    """PEFT's LoRA of the same total rank."""
    import peft

    model = nn.Module()
    model.layer = base
    config = peft.LoraConfig(r=sum(RANKS), target_modules=["layer"], lora_alpha=2 * sum(RANKS))
    layer = peft.inject_adapter_in_model(config, model).layer
    for part in (layer.lora_A, layer.lora_B):
        part.float()  # as get_peft_model leaves them, whose steps run under autocast
    return layer


def molas(path: Path, base: nn.Linear) -> nn.Module:
    """MoLA's layer, its two classes alone: the file as a whole needs a PEFT of 2023."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") in ("LoraMoE_Layer", "Linear_MoE", "transpose")]
    space: dict[str, Any] = {"torch": torch, "nn": nn, "F": nn.functional, "math": math, "warnings": warnings}
    space["transpose"] = lambda weight, swapped: weight.T if swapped else weight
    exec(compile(tree, str(path), "exec"), space)
    side = base.in_features
    layer = space["Linear_MoE"]("default", side, side, r=[8], lora_alpha=16, number_experts=[8], top_k=[2], bias=False)
    layer = layer.to(base.weight.device, base.weight.dtype)
    layer.weight.data = base.weight.data
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_("lora" in name or "router" in name)
    return layer


def step(layer: nn.Module, x: Tensor, autocast: torch.dtype | None) -> Step:
    """Forward and backward of a sum."""
    weights = torch.randn(*x.shape[:-1], x.shape[-1], device=x.device, dtype=x.dtype)

    def run() -> None:
        with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
            y = layer(x)
        y = y[0] if isinstance(y, tuple) else y
        (y * weights).sum().backward()
        layer.zero_grad(set_to_none=True)
        x.grad = None

    return run


def seconds(run: Step, device: str) -> float:
    """One run, finished on the device."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio(one: Step, other: Step, rounds: int, device: str) -> tuple[float, float, float]:
    """Median, least and greatest of one's time over the other's."""
    for run in (one, other, one, other):
        seconds(run, device)
    found = []
    for _ in range(rounds):
        a, b = seconds(one, device), seconds(other, device)
        found.append(a / b)
    return statistics.median(found), min(found), max(found)


def peak(run: Step, device: str) -> float:
    """MiB held at most beyond what was held before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = most = 0
    for event in _allocations(profile):
        held += event
        most = max(most, held)
    return most / 2**20


def _allocations(profile: Any) -> Iterator[int]:
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            yield event.nbytes()


def main() -> None:
    """All three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the base; with bfloat16 PEFT's step runs under autocast")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mola", type=Path)
    parser.add_argument("--full", action="store_true", help="every shape; hours on a CPU")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    autocast = dtype if dtype != torch.float32 else None
    for d, tokens in FULL if options.full else SMALL:
        torch.manual_seed(0)
        base = nn.Linear(d, d, bias=False, device=options.device, dtype=dtype).requires_grad_(False)
        x = torch.randn(8, tokens // 8, d, device=options.device, dtype=dtype, requires_grad=True)
        mine = step(ours(base), x, None)  # as plan train runs it
        theirs = step(pefts(nn.Linear(d, d, bias=False, device=options.device, dtype=dtype)), x, autocast)
        middle, low, high = ratio(mine, theirs, options.rounds, options.device)
        line = f"d {d}, {tokens} tokens: {middle:.3f} [{low:.3f}, {high:.3f}] of PEFT's time"
        line += f", {peak(mine, options.device) / peak(theirs, options.device):.3f} of its memory"
        if options.mola:
            loop = step(molas(options.mola, base), x, autocast)
            middle, low, high = ratio(loop, mine, max(3, options.rounds // 2), options.device)
            line += f"; MoLA's loop takes {middle:.2f} [{low:.2f}, {high:.2f}] times ours"
        print(line, flush=True)
    d, tokens = (4096, 8192) if options.device == "cuda" else (1024, 4096)
    base = nn.Linear(d, d, bias=False, device=options.device, dtype=dtype).requires_grad_(False)
    x = torch.randn(8, tokens // 8, d, device=options.device, dtype=dtype, requires_grad=True)
    single = step(ours(base, (64,)), x, None)
    for experts in (2, 4, 8, 16, 32, 64):
        many = step(ours(base, (64 // experts,) * experts), x, None)
        middle, low, high = ratio(many, single, options.rounds, options.device)
        print(f"{experts} experts, total rank 64: {middle:.3f} [{low:.3f}, {high:.3f}] of one expert's time", flush=True)


if __name__ == "__main__":
    main()
