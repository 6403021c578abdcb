"""A training step and a probe on a real language model, ours beside PEFT's LoRA of the same size in transformers.Trainer.

    python benchmarks/language_model.py MODEL DATA [--rounds 3] [--steps 8]

MODEL is SmolLM2-135M-Instruct, DATA a file of prompts and completions (BIG-bench's fact_checker/fever). The loss counts
completions. Both sides see the same batches of 16, padded alike, each round in a process of its own, in turn. The peer is
loaded in single precision and trained with bf16=True, as its users do, and once more loaded in bf16. Reported are ratios,
median and range over rounds: tokens per second without padding, peak resident memory (on a GPU the allocator's), our step over
its own matrix products timed alone, and `plan probe` with its defaults over training on as many examples.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sides import measured, shown

SIDES = ("ours", "peft", "peft-bf16")
WARM = 2
BATCH, LENGTH = 16, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def plan_of(model: str, kind: str) -> Any:
    """Uniform rank 8, or four experts of rank 2 of which a token uses two."""
    import planner
    from spectra import open_checkpoint

    settings = {"strategy": "uniform"} | ({"max_experts": 4, "expert_rank": 2, "max_rank": 8} if kind == "mixture" else {})
    budget = "rank 10" if kind == "mixture" else "rank 8"
    return planner.allocate(budget, planner.AllocationSettings(**settings), model=open_checkpoint(model))


def ours(model: str, data: Path, kind: str, steps: int) -> dict[str, float]:
    """`plan train`."""
    import trainer

    ticks: list[float] = []
    settings = trainer.TrainSettings(max_steps=steps, batch_size=BATCH, max_length=LENGTH)
    plan = plan_of(model, kind)
    with tempfile.TemporaryDirectory() as folder:
        report = trainer.train(
            plan, model, data, Path(folder) / "run", settings, progress=lambda *_: ticks.append(time.perf_counter())
        )
    return {"seconds": per_step(ticks), "parameters": plan.parameters, "peak": report.peak_memory}


def pefts(model: str, data: Path, kind: str, steps: int, dtype: torch.dtype) -> dict[str, float]:
    """PEFT's LoRA of the same rank on the same modules."""
    import peft
    import transformers

    from trainer.base_model import has_bf16_units, load_tokenizer
    from trainer.data.dataset import collator, read_texts
    from trainer.data.tokenize import tokenise
    from trainer.training.memory import peak_memory

    tokenizer = load_tokenizer(Path(model))
    rows = tokenise(read_texts(data), tokenizer, LENGTH).rows
    lora = peft.LoraConfig(r=10 if kind == "mixture" else 8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype), lora)
    ticks: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, report_to="none", disable_tqdm=True,
            save_strategy="no", logging_strategy="no", use_cpu=not torch.cuda.is_available(), bf16=has_bf16_units(), seed=0,
            learning_rate=1e-3, dataloader_pin_memory=False,
        )  # fmt: skip
        made = transformers.Trainer(
            model=adapted, args=arguments, train_dataset=rows, data_collator=collator("causal", tokenizer), callbacks=[Clock()]
        )
        made.train()
    size = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    return {"seconds": per_step(ticks), "parameters": size, "peak": peak_memory()}


def per_step(ticks: Sequence[float]) -> float:
    """Mean time of a step once warm: batches differ in length, and both sides see the same ones."""
    return (ticks[-1] - ticks[WARM - 1]) / (len(ticks) - WARM)


def probe(model: str, data: Path) -> dict[str, float]:
    """`plan probe` with its defaults: time, and how many examples went forward and backward."""
    from spectra import open_checkpoint
    from trainer import ProbeSettings
    from trainer.attribution.attribution import POINTS
    from trainer.attribution.trial_run import MEASURED, STEPS
    from trainer.probing import measure
    from trainer.training.memory import peak_memory

    settings, checkpoint = ProbeSettings(), open_checkpoint(model)
    start = time.perf_counter()
    measure(checkpoint, [data], settings, device=DEVICE)
    examples = settings.samples + STEPS["causal"] * settings.batch_size + POINTS * MEASURED
    return {"seconds": time.perf_counter() - start, "examples": examples, "peak": peak_memory()}


class Floor:
    """The matrix products of a uniform step, each at its shape and in bf16, on weights of their own."""

    def __init__(self, model: str) -> None:
        import transformers

        config = transformers.AutoConfig.from_pretrained(model)
        d, inner, self.layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
        self.side = config.head_dim or d // config.num_attention_heads
        self.groups, self.heads = config.num_key_value_heads, config.num_attention_heads
        queries, keys = self.heads * self.side, self.groups * self.side
        sites = [(queries, d), (keys, d), (keys, d), (d, queries), (inner, d), (inner, d), (d, inner)]
        self.weights = [[(new(out, into), new(8, into), new(out, 8)) for out, into in sites] for _ in range(self.layers)]
        self.head = new(config.vocab_size, d)

    def products(self, rows: int, wide: int, labelled: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The factors of every product of a step, forward and backward, for `rows` padded to `wide` tokens."""
        tokens, d = rows * wide, self.head.shape[1]
        q, k = new(rows * self.groups, self.heads // self.groups * wide, self.side), new(rows * self.groups, wide, self.side)
        w = new(rows * self.groups, q.shape[1], wide)
        made = {size: new(tokens, size) for layer in self.weights[:1] for W, _, _ in layer for size in W.shape}
        z = new(tokens, 8)
        for layer in self.weights:
            for W, A, B in layer:
                x, y = made[W.shape[1]], made[W.shape[0]]
                yield from ((x, W.T), (y, W), (x, A.T), (z, B.T), (y, B), (z, A), (z.T, x), (y.T, z))
            yield from ((q, k.mT), (w, k), (q, k.mT), (w.mT, q), (w, k), (w.mT, q))
        yield from ((new(labelled, d), self.head.T), (new(labelled, len(self.head)), self.head))

    def seconds(self, rows: int, wide: int, labelled: int) -> float:
        """How long they take, one after another."""
        factors = list(self.products(rows, wide, labelled))
        start = now()
        for a, b in factors:
            a @ b
        return now() - start


def new(*shape: int) -> torch.Tensor:
    """Random numbers."""
    return torch.randn(shape, dtype=torch.bfloat16, device=DEVICE)


def now() -> float:
    """The time, once the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def floor(model: str, data: Path, steps: int) -> dict[str, float]:
    """`plan train`, after each of whose steps the products of the same batch are timed alone: the sum of both."""
    import trainer
    from trainer.training.loop import AdapterTrainer

    alone, pairs = Floor(model), []
    compute = AdapterTrainer.training_step

    def step(self: Any, wrapped: Any, inputs: Any, *rest: Any) -> Any:
        rows, wide, labelled = *inputs["input_ids"].shape, int((inputs["labels"] != -100).sum())
        start = now()
        loss = compute(self, wrapped, inputs, *rest)
        pairs.append((now() - start, alone.seconds(rows, wide, labelled)))
        return loss

    AdapterTrainer.training_step = step  # type: ignore[method-assign]
    settings = trainer.TrainSettings(max_steps=steps + WARM, batch_size=BATCH, max_length=LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(plan_of(model, "uniform"), model, data, Path(folder) / "run", settings)
    return {"step": sum(one for one, _ in pairs[WARM:]), "products": sum(one for _, one in pairs[WARM:])}


def main() -> None:
    """Alternate the sides and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure = partial(measured, __file__, [options.model, str(options.data), "--steps", str(options.steps)])
    if options.only:
        from trainer.attribution.trial_run import STEPS
        from trainer.quiet import quiet_libraries

        quiet_libraries()
        what, *kind = options.only
        run: dict[str, Callable[[], dict[str, float]]] = {
            "ours": lambda: ours(options.model, options.data, *kind, options.steps),
            "trial": lambda: ours(options.model, options.data, *kind, STEPS["causal"]),
            "peft": lambda: pefts(options.model, options.data, *kind, options.steps, torch.float32),
            "peft-bf16": lambda: pefts(options.model, options.data, *kind, options.steps, torch.bfloat16),
            "probe": lambda: probe(options.model, options.data),
            "floor": lambda: floor(options.model, options.data, options.steps),
        }
        print(json.dumps(run[what]()))
        return
    rounds = {
        kind: [{side: measure(side, kind) for side in SIDES} for _ in range(options.rounds)] for kind in ("uniform", "mixture")
    }
    for kind, found in rounds.items():
        for peer in SIDES[1:]:
            speed = [one[peer]["seconds"] / one["ours"]["seconds"] for one in found]
            memory = [one["ours"]["peak"] / one[peer]["peak"] for one in found]
            sizes = f"{found[0]['ours']['parameters']:,} and {found[0][peer]['parameters']:,} parameters"
            print(f"{kind}: {shown(speed)} times {peer}'s tokens per second, {shown(memory)} of its peak memory ({sizes})")
    step = statistics.median(one["ours"]["seconds"] for one in rounds["uniform"])
    floors = [measure("floor") for _ in range(options.rounds)]
    print(f"our step takes {shown([one['step'] / one['products'] for one in floors])} times its matrix products alone")
    probes = [measure("probe") for _ in range(options.rounds)]
    ratios = [one["seconds"] / (one["examples"] / BATCH * step) for one in probes]
    # Beside a run of as many steps as the trial run has, which meets as many long batches.
    memory = [one["peak"] / measure("trial", "uniform")["peak"] for one in probes]
    print(f"the probe takes {shown(ratios)} times training on as many examples, and {shown(memory)} of such a run's peak memory")


if __name__ == "__main__":
    main()
