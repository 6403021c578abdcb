"""Writes the golden files: one document of every kind that loraplan writes, from tiny models that never change.

python -m tests.golden.make      # after a change that is meant to show; read the diff before you commit it
"""

import re
import sys
import tempfile
from pathlib import Path

import planner
import spectra
import trainer
from spectra.settings import AnalysisSettings
from tests.models import save_filled, sentences

HERE = Path(__file__).parent
QUICK = {"batch_size": 8, "max_length": 32, "precision": "fp32"}


def plans(model, report, sensitivity):
    """Name -> plan, at least one for every strategy."""
    about = {"spectra": report, "sensitivity": sensitivity}
    made = {name: planner.allocate(budget="rank 3", strategy=name, **about) for name in planner.STRATEGIES}
    made["combined-mixtures"] = planner.allocate(budget="4%", strategy="combined", max_experts=3, expert_rank=2, **about)
    made["worth"] = planner.allocate(budget="worth rank 4", strategy="combined", **about)
    return made


def dense_plans(model, report, sensitivity):
    """Plans with literal or counted experts, which need a dense model."""
    about = {"spectra": report, "sensitivity": sensitivity}
    return {
        "alphalora-experts": planner.allocate(budget="7 experts", strategy="alphalora", **about),
        "alphalora-parity": planner.allocate(budget="7 experts", strategy="alphalora", parity=True, **about),
        "lora-smoe-parity": planner.allocate(budget="2M", strategy="lora-smoe", parity=True, **about),
        "mola-parity": planner.allocate(budget="2M", strategy="mola", parity=True, **about),
        "mixture": planner.allocate(budget="9000", strategy="uniform", expert_rank=1, max_experts=3, **about),
        "upper": planner.allocate(budget="9000", strategy="sensitivity", depth=0.5, **about),
    }


def measure(model, data):
    """Both reports of one model."""
    report = spectra.analyze(model, AnalysisSettings(bootstrap=5, subsamples=3, goodness=4, compare=True))
    checkpoint = spectra.open_checkpoint(model)
    sample = trainer.load_sample(checkpoint, data, samples=16, max_length=32, seed=0)
    sensitivity = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task="text")
    from trainer.attribution.trial_run import run_trial

    short = trainer.TrainSettings(max_steps=4, **QUICK)
    return report, sensitivity.with_trial_run(*run_trial(checkpoint, data, short))


def steady(text: str, scratch: Path) -> str:
    """A document without what differs from machine to machine: paths, times and memory."""
    text = text.replace(f"{scratch}/", "")
    return re.sub(r'("(?:seconds|tokens_per_second|peak_memory)": ?)[^,}\n]+', r"\g<1>0", text)


def make(folder: Path, scratch: Path) -> None:
    """Write all golden files into a folder."""
    data = sentences(scratch / "text.jsonl")
    for name, family, more in (("llama", "llama", dense_plans), ("olmoe", "olmoe", plans)):
        model = save_filled(family, scratch / name)
        report, sensitivity = measure(model, data)
        report.save(folder / f"{name}-spectra.json")
        sensitivity.save(folder / f"{name}-sensitivity.json")
        for plan_name, plan in more(model, report, sensitivity).items():
            plan.save(folder / f"{name}-plan-{plan_name}.json")
    grown = planner.allocate(budget="rank 4", strategy="uniform", max_experts=1, model=spectra.open_checkpoint(scratch / "olmoe"))
    growing = trainer.TrainSettings(max_steps=24, grow=True, learning_rate=1e-3, **QUICK)
    trainer.train(grown, scratch / "olmoe", data, scratch / "grown", growing)
    mixture = planner.Plan.load(folder / "llama-plan-mixture.json")
    settings = trainer.TrainSettings(max_steps=6, router="sira", balance_loss=0.01, **QUICK)
    trainer.train(mixture, scratch / "llama", data, scratch / "run", settings, evaluation=data)
    trainer.evaluate(scratch / "run", data).save(folder / "evaluation.json")
    for run, names in (("run", ("run.json", "loraplan.json")), ("grown", ("run.json", "growth.json", "plan.json"))):
        for name in names:
            (folder / f"{run}-{name}").write_text(steady((scratch / run / name).read_text(), scratch))
    lora = planner.allocate(budget="rank 2", strategy="uniform", model=spectra.open_checkpoint(scratch / "llama"))
    lora.save(scratch / "uniform-lora.json")
    planner.allocate(budget="rank 2", strategy="random", max_experts=1, model=spectra.open_checkpoint(scratch / "llama")).save(
        scratch / "other.json"
    )
    quick = trainer.TrainSettings(max_steps=3, **QUICK)
    trainer.compare(
        [scratch / "uniform-lora.json", scratch / "other.json"], scratch / "llama", [data], [data], scratch / "study", quick,
        seeds=2, baselines=False, processes=1,
    ).save(folder / "study.json")  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, Path(scratch))
