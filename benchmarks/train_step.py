"""A whole training step, ours beside PEFT's LoRA of the same trainable parameters, both in transformers.Trainer.

    python benchmarks/train_step.py [--rounds 3] [--steps 12] [--device cuda]

A Llama with random weights on random tokens: on a CPU hidden size 512 and 6 layers in single precision, on a GPU the shapes of
Llama-3-8B in bfloat16 with gradient checkpointing. Every linear module is adapted: by us with 4 experts of rank 4, top-2, by PEFT
with the rank that costs the same. Reported is our share of PEFT's tokens per second, median and range over alternating rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

import planner
import spectra
from planner import AllocationSettings
from trainer.layers.inject import apply_plan

CPU = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
       "vocab_size": 4000}  # fmt: skip
GPU = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
       "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip


def ours(model: Any, plan: planner.Plan) -> Any:
    """Mixtures of 4 experts."""
    return apply_plan(model, plan)


def pefts(model: Any, plan: planner.Plan) -> Any:
    """One LoRA per module, of the rank that comes closest to the same size."""
    import peft

    rank = round(plan.parameters / sum(sum(site.shape) for site in plan.sites))
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def trainer_of(model: Any, options: argparse.Namespace, folder: str, autocast: bool) -> transformers.Trainer:
    """The same Trainer for both."""
    ids = torch.randint(5, 4000, (64, options.length)).tolist()
    rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids, "attention_mask": [[1] * options.length] * 64})
    arguments = transformers.TrainingArguments(
        output_dir=folder, max_steps=options.steps, per_device_train_batch_size=options.batch, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_strategy="no", use_cpu=options.device == "cpu",
        bf16=autocast,
        dataloader_pin_memory=False,
    )  # fmt: skip
    made = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    made.remove_callback(transformers.PrinterCallback)
    return made


def seconds(made: transformers.Trainer) -> float:
    """One short run."""
    start = time.perf_counter()
    made.train()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Alternate both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.LlamaConfig(**(GPU if options.device == "cuda" else CPU))
        plan = _plan_of(config)
        found = []
        made = {}
        for name, adapt in (("ours", ours), ("peft", pefts)):
            torch.manual_seed(0)
            with torch.device(options.device):
                model = transformers.LlamaForCausalLM(config).to(dtype)
            model = adapt(model, plan).to(options.device)
            if options.device == "cuda":
                from planner.modules.checkpointing import recompute

                recompute(model)
            # Ours needs no autocast: adapters compute in the precision of the base.
            made[name] = trainer_of(model, options, str(Path(folder) / name), options.device == "cuda" and name == "peft")
            seconds(made[name])
        for _ in range(options.rounds):
            times = {name: seconds(one) for name, one in made.items()}
            found.append(times["peft"] / times["ours"])
    parameters = {name: sum(p.numel() for p in one.model.parameters() if p.requires_grad) for name, one in made.items()}
    print(
        f"{statistics.median(found):.1%} [{min(found):.1%}, {max(found):.1%}] of PEFT's tokens per second;"
        f" trainable parameters {parameters['ours']:,} beside {parameters['peft']:,}"
    )


def _plan_of(config: transformers.LlamaConfig) -> planner.Plan:
    """A uniform plan from shapes alone, without writing 16 GB."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    rows = [(name, *module.weight.shape) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    table = Path(tempfile.mkdtemp()) / "shapes.csv"
    table.write_text("name,rows,cols,alpha\n" + "".join(f"{name},{a},{b},3.0\n" for name, a, b in rows))
    settings = AllocationSettings(strategy="uniform", expert_rank=4, max_experts=4, max_rank=16)
    return planner.allocate("rank 18", settings, spectra=spectra.load_spectra(table))


if __name__ == "__main__":
    main()
