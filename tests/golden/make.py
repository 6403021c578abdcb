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
from planner import AllocationSettings
from spectra import AnalysisSettings
from tests.models import save_filled, sentences
from trainer.attribution.trial_run import run_trial
from trainer.settings import DataSettings

HERE = Path(__file__).parent
QUICK = {"batch_size": 8, "max_length": 32, "precision": "fp32"}


def plans(report, sensitivity):
    """Name -> plan, at least one for every strategy."""
    about = {"spectra": report, "sensitivity": sensitivity}
    # The effective rank of a gradient is measured at linear modules, not at routed experts.
    names = [name for name in planner.STRATEGIES if name != "effective-rank"]
    made = {name: planner.allocate("rank 3", AllocationSettings(strategy=name), **about) for name in names}
    made["combined-mixtures"] = planner.allocate("4%", AllocationSettings(max_experts=3, expert_rank=2), **about)
    made["match"] = planner.allocate("match rank 4", **about)
    return made


def dense_plans(report, sensitivity):
    """Plans with literal or counted experts, which need a dense model."""
    about = {"spectra": report, "sensitivity": sensitivity}

    def made(budget, **settings):
        return planner.allocate(budget, AllocationSettings(**settings), **about)

    def as_released(strategy):
        return {"name": strategy, "settings": {"parity": True}}

    return {
        "alphalora-experts": made("7 experts", strategy="alphalora"),
        "alphalora-parity": made("7 experts", strategy=as_released("alphalora")),
        "lora-smoe-parity": made("2M", strategy=as_released("lora-smoe")),
        "mola-parity": made("2M", strategy=as_released("mola")),
        "effective-rank": made("9000", strategy="effective-rank", max_experts=1),
        "mixture": made("9000", strategy="uniform", expert_rank=1, max_experts=3),
        "upper": made("9000", strategy="sensitivity", depth=0.5),
    }


def measure(model, data):
    """Both reports of one model."""
    report = spectra.analyze(model, AnalysisSettings(bootstrap=5, subsamples=3, goodness=4, compare=True))
    checkpoint = spectra.open_checkpoint(model)
    sample = trainer.load_sample(checkpoint, data, samples=16, settings=DataSettings(max_length=32), seed=0)
    sensitivity = planner.probe(sample.model, sample.batches, checkpoint=checkpoint, task="text", effective_rank=True)
    short = trainer.TrainSettings(max_steps=4, **QUICK)  # not through plan probe, whose precision depends on the machine
    return report, sensitivity.with_trial_run(*run_trial(checkpoint, data, short))


def steady(text: str, scratch: Path) -> str:
    """A document without what differs from machine to machine: paths, times and memory."""
    text = text.replace(f"{scratch}/", "")
    text = re.sub(r'("(?:[a-z_]*seconds|tokens_per_second)": ?)[^,}\n]+', r"\g<1>0.0", text)
    return re.sub(r'("peak_memory": ?)[^,}\n]+', r"\g<1>0", text)


def make(folder: Path, scratch: Path) -> None:
    """Write all golden files into a folder."""
    # Of two words only the second is learned, by a token that sees itself alone: queries and keys would have no gradient but
    # rounding, which differs from machine to machine.
    data = sentences(scratch / "text.jsonl", words=6)
    for name, family, more in (("llama", "llama", dense_plans), ("olmoe", "olmoe", plans)):
        model = save_filled(family, scratch / name)
        report, sensitivity = measure(model, data)
        report.save(folder / f"{name}-spectra.json")
        sensitivity.save(folder / f"{name}-sensitivity.json")
        for plan_name, plan in more(report, sensitivity).items():
            plan.save(folder / f"{name}-plan-{plan_name}.json")
    olmoe, llama = (spectra.open_checkpoint(scratch / name) for name in ("olmoe", "llama"))
    even = planner.allocate("rank 4", AllocationSettings(strategy="uniform"), model=olmoe)
    growing = trainer.TrainSettings(max_steps=24, grow=True, learning_rate=1e-3, **QUICK)
    trainer.train(even, scratch / "olmoe", data, scratch / "grown", growing)
    mixture = planner.Plan.load(folder / "llama-plan-mixture.json")
    settings = trainer.TrainSettings(max_steps=6, router="sira", balance_loss=0.01, **QUICK)
    trainer.train(mixture, scratch / "llama", data, scratch / "run", settings, evaluation=data)
    trainer.evaluate(scratch / "run", data, precision="fp32").save(folder / "evaluation.json")
    for run, names in (("run", ("run.json", "loraplan.json")), ("grown", ("run.json", "growth.json", "plan.json"))):
        for name in names:
            (folder / f"{run}-{name}").write_text((scratch / run / name).read_text())
    compared = {
        "uniform-lora": AllocationSettings(strategy="uniform"),
        "other": AllocationSettings(strategy="random", max_experts=1),
    }
    for name, chosen in compared.items():
        planner.allocate("rank 2", chosen, model=llama).save(scratch / f"{name}.json")
    paths = [scratch / f"{name}.json" for name in compared]
    quick = trainer.TrainSettings(max_steps=3, **QUICK)
    study = trainer.compare(
        paths,
        scratch / "llama",
        [data],
        [data],
        scratch / "study",
        quick,
        seeds=2,
        baselines=False,
        rates=(1e-3, 1e-2),
        processes=1,
    )
    study.save(folder / "study.json")
    for document in folder.glob("*.json"):
        document.write_text(steady(document.read_text(), scratch))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, Path(scratch))
