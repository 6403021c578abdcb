"""Where does rank pay, and which signal knows? Twice the rank at one group of modules, group by group, beside signals.

    python benchmarks/study/groups.py stubs fonts -o study/

On the dense language model, 100 steps, rank 2 elsewhere. The truth is what a group's second pair of ranks takes off the test
loss; the signals come from a trial run of 30 steps, all per parameter of one rank. A larger mean rank also quickens all modules
(trainer/layers/inject.py), here by 7 to 8 per cent, for every group alike.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from beds import BEDS
from torch import Tensor, nn

import planner
from planner import AllocationSettings, Plan
from planner.modules.labelled import example_losses
from spectra import Checkpoint, open_checkpoint
from trainer.attribution.attribution import AdapterScale, Batches, attribute, scaled
from trainer.attribution.trial_run import RANK, short_run
from trainer.layers.inject import mixtures
from trainer.layers.mixture import MixtureLinear
from trainer.study.jobs import Job, run_all, workers

BED, RATE, STEPS = BEDS["dense"], 2e-2, 30


def groups(names: list[str]) -> Mapping[str, list[str]]:
    """Every projection type and every layer, with its modules."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[2], []).append(name)
        found.setdefault(f"layer {name.split('.')[2]}", []).append(name)
    return found


def doubled(plan: Plan, members: list[str]) -> Plan:
    """The plan with twice the rank at some modules."""
    sites = tuple(site.model_copy(update={"ranks": (2 * RANK,)}) if site.name in members else site for site in plan.sites)
    size = sum(site.parameters for site in sites)
    budget = plan.budget.model_copy(update={"limit": size, "spent": size, "parameters": size})
    return plan.model_copy(update={"sites": sites, "budget": budget})


def truths(output: Path, task: str, processes: int) -> Mapping[str, float]:
    """Group -> nats off the test loss per 10,000 parameters of its second pair of ranks."""
    plan = planner.allocate(f"rank {RANK}", AllocationSettings(strategy="uniform"), model=open_checkpoint(BED.model(output)))
    root = output / "groups" / task
    plans = {"uniform": plan} | {
        name: doubled(plan, members) for name, members in groups([site.name for site in plan.sites]).items()
    }
    jobs: list[Job] = []
    for name, one in plans.items():
        path = root / f"{name}.json"
        one.save(path)
        jobs.append(BED.job(output, (task,), name, path, root / "runs" / name, BED.settings(RATE), processes))
    losses = {}
    for job, evaluation in run_all(jobs, processes):
        assert evaluation is not None  # only trials of a sweep may diverge
        losses[job.candidate] = evaluation.trained["loss"]
        print(task, job.candidate, round(evaluation.trained["loss"], 4), flush=True)
    more = {name: one.parameters - plan.parameters for name, one in plans.items()}
    return {name: 1e4 * (losses["uniform"] - losses[name]) / more[name] for name in plans if name != "uniform"}


@torch.no_grad()
def turn_to_components(mixture: MixtureLinear) -> None:
    """The same product B A, its ranks its singular vectors, largest first."""
    left, values, right = torch.linalg.svd((mixture.B @ mixture.A).double(), full_matrices=False)
    roots = values[: len(mixture.A)].sqrt()
    mixture.B.copy_(left[:, : len(roots)] * roots)
    mixture.A.copy_(roots[:, None] * right[: len(roots)])


def slopes(model: nn.Module, sample: Batches, adapter_scales: list[AdapterScale], to: float) -> list[Tensor]:
    """Of the loss by every base weight, adapters scaled by `to`."""
    weights = [scale.module.base.weight.requires_grad_(True) for scale in adapter_scales]  # type: ignore[union-attr]
    sums = [torch.zeros_like(weight) for weight in weights]
    for batch in sample:
        inputs = dict(batch)
        labels = inputs.pop("labels")
        with scaled(adapter_scales, to):
            loss = example_losses(model(**inputs).logits, labels).mean()
            for total, slope in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += slope / len(sample)
    for weight in weights:
        weight.requires_grad_(False)
    return sums


def first_steps(slope: Tensor) -> float:
    """What Adam's first step takes off the loss with one more rank, random A, but for a factor: sum_i |G_i| / sqrt(d_in)."""
    return float(slope.norm(dim=1).sum() / slope.shape[1] ** 0.5)


def signals(checkpoint: Checkpoint, data: Path) -> pd.DataFrame:
    """One row per module: its cost and what each signal says, not yet per parameter."""
    model, sample = short_run(checkpoint, data, BED.settings(RATE, max_steps=STEPS), "cpu")
    found = mixtures(model)
    for mixture in found.values():
        turn_to_components(mixture)
    parts = [
        AdapterScale(mixture, "scaling", mixture.scaling, tuple(f"{name}#{part}" for part in range(RANK)))
        for name, mixture in found.items()
    ]
    shares = attribute(model, parts, sample).mean(0).reshape(-1, RANK).numpy()
    frame = pd.DataFrame(index=list(found))
    frame["cost"] = [sum(mixture.base.weight.shape) for mixture in found.values()]  # type: ignore[union-attr,arg-type]
    frame["integral"] = shares.sum(1)
    frame["second component"] = shares[:, 1]
    for name, to in (("slope before", 0.0), ("slope after", 1.0)):
        whole = slopes(model, sample, parts, to)
        frame[name] = [first_steps(slope) for slope in whole]
        frame[f"{name}, spectral"] = [float(torch.linalg.matrix_norm(slope, 2)) for slope in whole]
        frame[f"{name}, nuclear"] = [float(torch.linalg.matrix_norm(slope, "nuc")) for slope in whole]
    return frame


@click.command()
@click.argument("tasks", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="study")
@click.option("--processes", type=int, default=0)
def main(tasks: tuple[str, ...], output: Path, processes: int) -> None:
    """Print truth in nats per 10,000 parameters beside signals, each over its mean, and how well each signal agrees."""
    checkpoint = open_checkpoint(BED.model(output))
    for task in tasks:
        data, _ = BED.write(output / "tasks", task)
        truth = pd.Series(truths(output, task, processes or workers()))
        of_modules = signals(checkpoint, data)
        per_parameter = partial(_per_parameter, of_modules)
        table = pd.DataFrame({name: per_parameter(members) for name, members in groups(list(of_modules.index)).items()}).T
        kinds = np.array([name.startswith("layer") for name in table.index])
        table[~kinds] /= table[~kinds].mean()
        table[kinds] /= table[kinds].mean()
        table.insert(0, "truth", truth)
        table.to_csv(output / f"groups-{task}.csv")
        print(table.round(3).to_string())
        for label, part in (("types", table[~kinds]), ("layers", table[kinds])):
            print(label, part.corr()["truth"].round(2).to_dict(), flush=True)


def _per_parameter(of_modules: pd.DataFrame, members: list[str]) -> pd.Series:
    sums = of_modules.loc[members].sum()
    return sums.drop("cost") / sums["cost"]


if __name__ == "__main__":
    main()
