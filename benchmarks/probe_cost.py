"""What probing costs beside one forward and backward pass of a plain LoRA on the same examples: time and peak memory.

    python benchmarks/probe_cost.py [--rounds 5] [--length 128] [--batch 8]

The peer is PEFT's LoRA of rank 8 on every linear layer, one training step without the optimiser. Models are built from
configurations with random weights: a BERT of MiniLM's shapes and a Llama of hidden size 1024. Peak memory is resident memory
above what the process held before the first batch (Linux); the probe may hold the largest matrix beyond the peer.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import transformers

KINDS = ("bert", "llama")


def build(kind: str) -> tuple[torch.nn.Module, str]:
    """A model and the names of the linear layers that LoRA adapts."""
    torch.manual_seed(0)
    if kind == "bert":
        config = transformers.BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=8
        )
        return transformers.BertForSequenceClassification(config), "query|key|value|dense"
    config = transformers.LlamaConfig(
        vocab_size=8000,
        hidden_size=1024,
        num_hidden_layers=4,
        num_attention_heads=16,
        num_key_value_heads=4,
        intermediate_size=2816,
    )
    return transformers.LlamaForCausalLM(config), "proj"


def batch_of(kind: str, size: int, length: int) -> dict[str, torch.Tensor]:
    """A batch of random tokens without padding."""
    ids = torch.randint(5, 8000, (size, length))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(8, (size,)) if kind == "bert" else ids,
    }


def prepare(who: str, kind: str, size: int, length: int) -> Callable[[], object]:
    """One step of ours or of the peer's."""
    model, targets = build(kind)
    batch = batch_of(kind, size, length)
    if who == "probe":
        from planner import probe

        return lambda: probe(model, [batch])
    import peft

    inside = rf".*(layers?)\.\d+\..*({targets}).*"
    lora = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=inside)).train()
    from planner.modules.labelled import example_losses

    def step() -> None:
        labels = batch["labels"]
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        example_losses(lora(**inputs).logits, labels).mean().backward()
        lora.zero_grad()

    return step


def measure_memory(who: str, kind: str, size: int, length: int) -> float:
    """Peak MiB above the process before its first batch, in a process of its own."""
    command = [sys.executable, __file__, "--memory", who, kind, "--batch", str(size), "--length", str(length)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    """Alternate ours and theirs, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--memory", nargs=2, metavar=("WHO", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        from memory import peak_above_now  # beside this script

        step = prepare(*options.memory, options.batch, options.length)
        peak = peak_above_now()
        for _ in range(3):
            step()
        print(json.dumps(peak() / 1024))
        return
    for kind in KINDS:
        steps = {who: prepare(who, kind, options.batch, options.length) for who in ("probe", "lora")}
        for step in steps.values():
            step()
        ratios = []
        for _ in range(options.rounds):
            times = {}
            for who, step in steps.items():
                start = time.perf_counter()
                step()
                step()
                times[who] = time.perf_counter() - start
            ratios.append(times["probe"] / times["lora"])
        peaks = {who: measure_memory(who, kind, options.batch, options.length) for who in steps}
        model, _ = build(kind)
        largest = max(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and ".layer" in n) * 4 / 2**20
        print(
            f"{kind}: {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times a LoRA step;"
            f" peak memory {peaks['probe']:.0f} MiB beside {peaks['lora']:.0f} MiB, largest matrix {largest:.0f} MiB"
        )


if __name__ == "__main__":
    main()
