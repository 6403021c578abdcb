"""Run what `prepare.py` wrote on one GPU, many runs at once: `gpu.py MODEL FILE OUT SECONDS [PART PARTS [STAGES]]`.

MODEL is a folder in Hugging Face layout or a GGUF file. For every arm first a sweep of learning rates on nine tenths of the
training data, scored on the tenth; then the seeds at the best rate, scored on the test file, every example by itself. Results are
written group by group to OUT/results-PART.pt; what is there is not repeated.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from many import Many, Rows, Run
from transformers import AutoModelForCausalLM

STEPS, BATCH = 150, 16
PER_TOKEN = 0.9e6  # bytes of activations


def load(model: Path) -> torch.nn.Module:
    """The base in bf16."""
    if model.suffix == ".gguf":
        loaded = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.bfloat16)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    total = sum(float(parameter.double().abs().sum()) for parameter in loaded.parameters())
    print(f"sum of absolute weights {total:.6f}", flush=True)
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu")


class Study:
    """Groups of runs, and what they gave."""

    def __init__(self, model: Path, file: Path, out: Path, seconds: float, part: int, parts: int) -> None:
        """Load everything; `part` of `parts` processes takes every so many tasks."""
        self.ends = time.monotonic() + seconds
        self.described = torch.load(file, weights_only=False)
        self.place = out / f"results-{part}.pt"
        self.found = torch.load(self.place, weights_only=False) if self.place.exists() else {}
        memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 4e9
        self.tokens = int(0.8 * memory / parts / PER_TOKEN)
        self.many = Many(load(model), self.described["modules"], STEPS, BATCH)
        self.device = str(self.many.device)
        names = list(self.described["tasks"])
        self.tasks = [name for number, name in enumerate(names) if number % parts == part]
        self.rows: dict[tuple[str, str], Rows] = {}

    def of(self, task: str, part: str) -> Rows:
        """Rows of a task, on the device once."""
        if (task, part) not in self.rows:
            given = self.described["tasks"][task]
            # The few longest would make all rows as long: of their prompts the front is left out, as `max_length` does.
            most = int(np.quantile([len(row) for row in given["train"]["input_ids"]], 0.97))
            cut = {name: [row[-most:] for row in given[part][name]] for name in ("input_ids", "labels")}
            self.rows[task, part] = Rows.of(cut, self.device)
        return self.rows[task, part]

    def run(self, passes: list[tuple[list[int], int]]) -> None:
        """Passes over all tasks while there is time: the arms of some stages with so many seeds."""
        for together, seeds in passes:
            for task in self.tasks:
                arms = [arm for arm in self.described["tasks"][task]["arms"] if arm["stage"] in together]
                # Ranks are padded to the largest of a group: rank 32 would make all others as large.
                for sizes in ([arm for arm in arms if arm["size"] <= 8], [arm for arm in arms if arm["size"] > 8]):
                    self.sweep(task, sizes)
                    self.seeds(task, sizes, seeds)

    def sweep(self, task: str, arms: list[dict]) -> None:
        """Choose each arm's learning rate."""
        seed = self.described["sweep_seed"]
        runs = [(arm, self.as_run(arm, rate, seed)) for arm in arms for rate in arm["rates"]]
        self.group(task, "sweep", runs, "tune", "validation")
        for arm in arms:
            tried = {rate: self.found.get((task, arm["label"], "sweep", seed, rate)) for rate in arm["rates"]}
            scored = {
                rate: float(np.nanmean(one["losses"])) if np.isfinite(one["losses"]).all() else np.inf
                for rate, one in tried.items()
                if one
            }
            if scored:
                arm["rate"] = min(scored, key=lambda rate: (scored[rate], rate))
                print(
                    json.dumps(
                        {
                            "task": task,
                            "arm": arm["label"],
                            "sweep": {f"{rate:g}": round(loss, 4) for rate, loss in scored.items()},
                        }
                    ),
                    flush=True,
                )

    def seeds(self, task: str, arms: list[dict], seeds: int) -> None:
        """The runs that count."""
        runs = [
            (arm, self.as_run(arm, arm["rate"], seed))
            for arm in arms
            if "rate" in arm
            for seed in range(min(seeds, arm["seeds"]))
        ]
        self.group(task, "seeds", runs, "train", "test")

    def as_run(self, arm: dict, rate: float, seed: int) -> Run:
        """A run of an arm; a random arm has another plan for every seed."""
        plans = arm["plans"]
        ranks = plans.get(seed, plans.get(0))
        return Run(name=arm["label"], ranks=ranks, rate=rate, seed=seed, alpha=arm["alpha"], ratio=arm["ratio"])

    def group(self, task: str, kind: str, runs: list[tuple[dict, Run]], train: str, score: str) -> None:
        """Train and score runs, so many at a time."""
        todo = [(arm, run) for arm, run in runs if (task, arm["label"], kind, run.seed, run.rate) not in self.found]
        while todo:
            if time.monotonic() > self.ends:
                print("out of time", flush=True)
                return
            # Shared out evenly: 40 runs are twice 20 and not 32 and 8.
            most = max(1, self.tokens // (BATCH * self.of(task, train).ids.shape[1]))
            taken = -(-len(todo) // -(-len(todo) // most))
            now, todo = todo[:taken], todo[taken:]
            begun = time.monotonic()
            rows, tests = self.of(task, train), self.of(task, score)
            try:
                last = self.many.train([run for _, run in now], rows)
                trained = time.monotonic() - begun
                losses = self.many.losses(tests, len(now))
            except torch.cuda.OutOfMemoryError:
                print(f"no memory for {taken} runs of {task}", flush=True)
                self.tokens, todo = self.tokens // 2, [*now, *todo]
                self.many.forget()
                continue
            for (arm, run), row, end in zip(now, losses, last, strict=True):
                key = task, arm["label"], kind, run.seed, run.rate
                self.found[key] = {"losses": row, "train": end, "seconds": (time.monotonic() - begun) / len(now)}
            temporary = self.place.with_suffix(".tmp")
            torch.save(self.found, temporary)
            temporary.rename(self.place)
            means = {}
            for (arm, _), row in zip(now, losses, strict=True):
                means.setdefault(arm["label"], []).append(float(row.mean()))
            peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
            print(
                f"{task} {kind}: {len(now)} runs, {trained:.1f} + {time.monotonic() - begun - trained:.1f} s, {peak:.0f} GiB;",
                "; ".join(f"{label} {np.mean(values):.4f} ({np.std(values):.4f})" for label, values in means.items()),
                flush=True,
            )


def main(
    model: str, file: str, out: str, seconds: str, part: str = "0", parts: str = "1", passes: str = "01:4,01:8,2:4,3:4,01:16,4:8"
) -> None:
    """Run."""
    Path(out).mkdir(parents=True, exist_ok=True)
    Study(Path(model), Path(file), Path(out), float(seconds), int(part), int(parts)).run(
        [(list(map(int, one.split(":")[0])), int(one.split(":")[1])) for one in passes.split(",")]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
