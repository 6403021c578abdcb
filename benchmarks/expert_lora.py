"""LoRA on routed experts: ours beside PEFT's target_parameters, and beside the base model alone.

    python benchmarks/expert_lora.py [--device cuda] [--rounds 5] [--layers 1]

Forward and backward of an OLMoE with random weights: on a CPU 2 layers of hidden size 512 with 64 experts in single precision,
with --layers or on a GPU OLMoE-1B-7B's shapes, on the GPU in bfloat16. All projections of all experts are adapted. PEFT gives
every expert one rank; ours vary from a half to twice of it at the same number of parameters. Base alone is its own forward and
backward to the inputs, nothing adapted. Memory is the process's resident memory above what it held before the first step, or the
GPU allocator's peak.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

from planner.modules.fused_experts import is_experts
from trainer.layers.expert_lora import ExpertLora, adapt
from trainer.settings import GrowthSettings
from trainer.training.growth import GrowingGroup
from trainer.training.growth_groups import growth_groups

SMALL = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_experts": 64,
       "num_experts_per_tok": 8, "vocab_size": 4000}  # fmt: skip
REAL = {"hidden_size": 2048, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "num_experts": 64,
       "num_experts_per_tok": 8, "vocab_size": 50304}  # fmt: skip
RANK = 16


def base(options: argparse.Namespace) -> Any:
    """The frozen model; gradients flow from its embeddings up, as they do under adapters."""
    torch.manual_seed(0)
    shapes = REAL if options.device == "cuda" or options.layers else SMALL
    config = transformers.OlmoeConfig(**shapes | ({"num_hidden_layers": options.layers} if options.layers else {}))
    with torch.device(options.device):
        model = transformers.OlmoeForCausalLM(config)
    model = model.to(torch.bfloat16 if options.device == "cuda" else torch.float32).requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.requires_grad_())
    return model


def ours(options: argparse.Namespace) -> Any:
    """Mixed ranks, the same in sum."""
    model = base(options)
    for experts in [module for module in model.modules() if is_experts(module)]:
        count = len(experts.down_proj)
        ranks = [7, 10, 13, 23] * (count // 4)  # PEFT shares A between gate and up, so that equal ranks would cost us more
        adapt(experts, ExpertLora(experts, dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ranks), lora_alpha=4.0))
    return model


def pefts(options: argparse.Namespace) -> Any:
    """One rank for every expert."""
    import peft

    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[], target_parameters=names)
    return peft.get_peft_model(base(options), config)


MODELS: dict[str, Callable[[argparse.Namespace], Any]] = {"base": base, "ours": ours, "peft": pefts}


def prepare(model: Any, options: argparse.Namespace) -> Callable[[], None]:
    """One step."""
    model.train()
    ids = torch.randint(5, 4000, (options.batch, options.length), device=options.device)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return step


def memory(who: str, options: argparse.Namespace) -> float:
    """Peak MiB of three steps in a process of its own."""
    command = [sys.executable, __file__, "--memory", who, "--device", options.device, "--batch", str(options.batch)]
    command += ["--length", str(options.length), "--layers", str(options.layers)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(shown.splitlines()[-1]))


def bookkeeping(model: Any, step: Callable[[], None], rounds: int) -> float:
    """Share of a step that watching gradients for growth takes."""
    groups = [GrowingGroup(group, GrowthSettings()) for _, group in growth_groups(model, GrowthSettings())]
    zero, model.zero_grad = model.zero_grad, lambda: None  # keep the gradients of the step for the watching that follows
    shares = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        middle = time.perf_counter()
        with torch.no_grad():
            for growing in groups:
                growing.observe()
        shares.append((time.perf_counter() - middle) / (middle - start))
        zero()
    model.zero_grad = zero
    return statistics.median(shares)


def main() -> None:
    """Alternate all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", type=int, default=0, help="that many layers of OLMoE-1B-7B's shapes")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        step = prepare(MODELS[options.memory](options), options)
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            print(json.dumps((torch.cuda.max_memory_allocated() - before) / 2**20))
            return
        from memory import peak_above_now  # beside this script

        peak = peak_above_now()
        for _ in range(3):
            step()
        print(json.dumps(peak() / 1024))
        return
    models = {who: make(options) for who, make in MODELS.items()}
    steps = {who: prepare(model, options) for who, model in models.items()}
    for step in steps.values():
        step()
    found: dict[str, list[float]] = {"peft": [], "base": []}
    for _ in range(options.rounds):
        times = {}
        for who, step in steps.items():
            start = time.perf_counter()
            step()
            times[who] = time.perf_counter() - start
        found["peft"].append(times["peft"] / times["ours"])
        found["base"].append(times["ours"] / times["base"])
    peaks = {who: memory(who, options) for who in ("ours", "peft")}
    planned = sum(module.parameters_planned for module in models["ours"].modules() if isinstance(module, ExpertLora))
    trainable = sum(parameter.numel() for parameter in models["peft"].parameters() if parameter.requires_grad)
    print(f"trainable parameters: {planned:,} beside PEFT's {trainable:,}")
    print(
        f"PEFT takes {statistics.median(found['peft']):.2f} [{min(found['peft']):.2f}, {max(found['peft']):.2f}] times our step"
    )
    middle, low, high = statistics.median(found["base"]), min(found["base"]), max(found["base"])
    print(f"our step takes {middle:.2f} [{low:.2f}, {high:.2f}] of the base's")
    print(f"growth's bookkeeping takes {bookkeeping(models['ours'], steps['ours'], options.rounds):.2%} of our step")
    print(f"peak memory {peaks['ours']:.0f} MiB beside PEFT's {peaks['peft']:.0f}: {peaks['ours'] / peaks['peft']:.2f}")


if __name__ == "__main__":
    main()
