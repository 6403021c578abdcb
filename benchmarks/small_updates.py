"""What does half precision leave of a small update? Loss of one trained adapter at a part of its strength, ours beside PEFT's.

    python benchmarks/small_updates.py MODEL DATA [--steps 30]

An adapter of rank 2 on every linear module is trained for some steps, as in a trial run, and its scaling set to a part of what
it was. Both tools compute the same loss on the same rows, in single precision and with a base in bf16. An update is added to a
product that is much larger: a tool that rounds the product first loses what is smaller than half of the product's last bit.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import planner
import trainer
from planner import labelled_losses
from spectra import open_checkpoint
from trainer.attribution.attribution import adapter_scales, scaled
from trainer.quiet import quiet_libraries
from trainer.settings import DataSettings

PARTS = (0.0, 0.05, 0.1, 0.2, 1.0)
SAMPLES = 16
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.no_grad()
def loss(model: Any, batches: list[dict[str, torch.Tensor]]) -> float:
    """Mean over examples."""
    found = []
    for batch in batches:
        inputs = dict(batch)
        found.append(labelled_losses(model, inputs, inputs.pop("labels")))
    return float(torch.cat(found).mean())


def ours(run: Path, batches: list[dict[str, torch.Tensor]], precision: Any) -> list[float]:
    """The losses by part, from our layers."""
    model = trainer.load_adapters(run, precision=precision).eval()
    found = []
    for part in PARTS:
        with scaled(adapter_scales(model), part):
            found.append(loss(model, batches))
    return found


def pefts(run: Path, model: str, batches: list[dict[str, torch.Tensor]], precision: str) -> list[float]:
    """The losses by part, from PEFT's layers."""
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=DTYPES[precision])
    adapted = peft.PeftModel.from_pretrained(base, str(run)).eval()
    layers = [module for module in adapted.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    found = []
    for part in PARTS:
        for layer in layers:
            layer.set_scale("default", part)
        found.append(loss(adapted.base_model.model, batches))
    return found


def main() -> None:
    """Print a row for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    quiet_libraries()
    checkpoint = open_checkpoint(options.model)
    plan = planner.allocate("rank 2", planner.AllocationSettings(strategy="uniform"), model=checkpoint)
    sample = trainer.load_sample(checkpoint, options.data, samples=SAMPLES, settings=DataSettings(max_length=128), seed=1)
    batches = list(sample.batches)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        trainer.train(plan, options.model, options.data, run, trainer.TrainSettings(max_steps=options.steps, batch_size=16))
        columns = {
            "fp32": ours(run, batches, "fp32"),
            "fp32, PEFT": pefts(run, options.model, batches, "fp32"),
            "bf16": ours(run, batches, "bf16"),
            "bf16, PEFT": pefts(run, options.model, batches, "bf16"),
        }
    print("part  " + "  ".join(f"{name:>10}" for name in columns))
    for row, part in enumerate(PARTS):
        print(f"{part:4}  " + "  ".join(f"{losses[row]:10.3f}" for losses in columns.values()))


if __name__ == "__main__":
    main()
