"""A training step that adapts only the upper half of the layers, beside one of the same size that adapts all of them.

    python benchmarks/upper_layers.py [--rounds 7]

A BERT of MiniLM's shapes and a Llama, random weights, uniform LoRA of rank 4 everywhere or rank 8 in the upper half, forward and
backward in single precision. Reported is the share of the time, median and range over alternating rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable

import click
import torch
import transformers

import planner
from planner import AllocationSettings
from spectra import open_checkpoint
from trainer import apply_plan

MODELS: dict[str, tuple[type, transformers.PretrainedConfig]] = {
    "BERT": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    ),
    "Llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            hidden_size=512, intermediate_size=1408, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4,
            vocab_size=4000,
        ),
    ),
}  # fmt: skip
BATCH, LENGTH, RANK = 8, 128, 4


def step(kind: type, config: transformers.PretrainedConfig, depth: float) -> Callable[[], None]:
    """One forward and backward pass of an adapted model."""
    torch.manual_seed(0)
    model = kind(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        plan = planner.allocate(f"rank {RANK}", AllocationSettings(strategy="uniform", depth=depth), model=checkpoint)
    apply_plan(model, plan)
    ids = torch.randint(5, 4000, (BATCH, LENGTH))

    def run() -> None:
        model(input_ids=ids).logits.float().logsumexp(-1).mean().backward()

    return run


def seconds(run: Callable[[], None]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@click.command()
@click.option("--rounds", type=int, default=7)
def main(rounds: int) -> None:
    """Measure and print."""
    for name, (kind, config) in MODELS.items():
        whole, upper = (step(kind, config, depth) for depth in (1.0, 0.5))
        seconds(whole), seconds(upper)
        shares = [seconds(upper) / seconds(whole) for _ in range(rounds)]
        print(f"{name}: {statistics.median(shares):.2f} [{min(shares):.2f}, {max(shares):.2f}] of the time")


if __name__ == "__main__":
    main()
