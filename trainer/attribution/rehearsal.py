"""Rehearsal: a short run of uniform LoRA, and which modules' adapters brought what it gained.

Gradients at the first step say how strongly a task pulls on a module, not whether yielding there helps. So a rehearsal trains
every module a little and shares the gain out. With L(s) the held-out loss when the adapter of module m is scaled by s_m,

    benefit_m = - integral over t from 0 to 1 of dL/ds_m at s = (t, ..., t),

the value of Aumann and Shapley (integrated gradients, Sundararajan et al., arXiv 1703.01365): over all modules it sums to what
the adapters take off the loss. A few backward passes over a sample give it for every module at once, however many there are.
(Where a router of the base model changes its choice on the way the loss jumps, and a jump belongs to nobody.)
"""

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import planner
from planner import example_losses
from planner.sensitivity.report import Estimate, Rehearsal
from spectra import Checkpoint, InputError
from spectra.checkpoint.names import resolve
from trainer.adapters.store import AdapterConfig, load_adapters, load_config
from trainer.base_model import load_tokenizer
from trainer.data.dataset import TaskKind, Texts, batches, read_texts, tokenise
from trainer.data.sampling import PROBE_BATCH
from trainer.layers.expert_lora import expert_loras
from trainer.layers.inject import mixtures
from trainer.report import TrainSettings
from trainer.study.sweep import split
from trainer.training import train  # not from trainer.train, which would bind that name to the module

STEPS: Mapping[TaskKind, int] = {"causal": 30, "classification": 0}  # by default; classifiers' plans were worse for it
RANK = 2
POINTS = 3  # of Gauss and Legendre's rule; more move no benefit by a hundredth of the mean
MEASURED = 64  # held-out examples; more do not make two rehearsals more alike
LEAST_BATCHES = 8  # where the sample allows: standard errors are over batches
Progress = Callable[[int, int], None]
Batches = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Dial:
    """A tensor of factors inside an adapter that scales it: of one module, or of all experts of a layer."""

    module: nn.Module
    attribute: str
    full: Tensor
    sites: tuple[str, ...]


def rehearse(
    checkpoint: Checkpoint,
    data: str | Path,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[Rehearsal, Mapping[str, Estimate]]:
    """Train a uniform LoRA on nine tenths of a file and measure every module's benefit on the rest.

    Args:
        checkpoint: the base model.
        data: a dataset file.
        settings: of the run; `max_steps` says how short it is.
        device: where to measure.
        progress: called as progress(done, total), in steps of training and passes of measuring.

    Returns:
        What was done, and each module's benefit in nats per example under the checkpoint's names.

    Raises:
        InputError: an unusable file or model, or a run that diverges.
    """
    said = partial(_forward, progress, settings.max_steps + POINTS)
    model, sample = short_run(checkpoint, Path(data), settings, device, said)
    found = dials(model)
    shares = attribute(model, found, sample, lambda done: said(settings.max_steps + done, 0, 0.0))
    names = [site for dial in found for site in dial.sites]
    stored = resolve(names, list(checkpoint.modules()))
    gain = _estimate(shares.sum(1))
    benefits = {stored[name]: _estimate(column) for name, column in zip(names, shares.T, strict=True)}
    described = Rehearsal(
        rank=RANK,
        steps=settings.max_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        examples=sum(len(batch["labels"]) for batch in sample),
        gain=gain,
    )
    return described, benefits


def short_run(
    checkpoint: Checkpoint, data: Path, settings: TrainSettings, device: str, said: Callable[[int, int, float], None]
) -> tuple[Any, Batches]:
    """The model after the run, and a sample of what it did not see."""
    plan = planner.allocate(budget=f"rank {RANK}", strategy="uniform", model=checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        training, held = split(data, Path(folder))
        with redirect_stderr(io.StringIO()):  # what a plan adapts is said of runs that stay
            train(plan, checkpoint.folder, training, Path(folder) / "run", settings, progress=said)
            model = load_adapters(Path(folder) / "run").to(device)
        return model, _sample(held, load_config(Path(folder) / "run"), checkpoint)


def _forward(progress: Progress | None, total: int, step: int, steps: int, loss: float) -> None:
    if progress:
        progress(step, total)


def _sample(held: Path, config: AdapterConfig, checkpoint: Checkpoint) -> Batches:
    texts = read_texts(held)
    drawn = Texts(path=texts.path, rows=texts.rows.select(range(min(MEASURED, len(texts.rows)))))
    tokenizer = load_tokenizer(checkpoint.folder)
    examples = tokenise(drawn, tokenizer, config.max_length, config.labels)
    return list(batches(examples, tokenizer, max(1, min(PROBE_BATCH, len(examples.rows) // LEAST_BATCHES))))


def dials(model: nn.Module) -> list[Dial]:
    """What scales the adapters of a model without routers of its own."""
    found = [Dial(mixture, "gain", mixture.gain, (name,)) for name, mixture in mixtures(model).items()]
    for name, lora in expert_loras(model).items():
        experts = name.rpartition(".")[0]
        for part, ranks in lora.ranks.items():
            sites = tuple(f"{experts}.{expert}.{part}" for expert in range(len(ranks)))
            found.append(Dial(lora, f"scale_{part}", lora.scale(part), sites))
    return found


def attribute(model: Any, found: list[Dial], sample: Batches, progress: Callable[[int], None] | None = None) -> Tensor:
    """Share out what a model's adapters gain.

    Args:
        model: with trained adapters; left as it was found, but for gradients, which no parameter wants any more.
        found: its dials.
        sample: batches with labels.
        progress: called with the points of the integral done.

    Returns:
        (batches, sites) in float64: each site's benefit on each batch.
    """
    model.eval().requires_grad_(False)
    shares = torch.zeros(len(sample), sum(len(dial.sites) for dial in found), dtype=torch.float64)
    device = next(model.parameters()).device
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    for done, (node, weight) in enumerate(zip(nodes, weights, strict=True), 1):
        for row, batch in enumerate(sample):
            inputs = {key: value.to(device) for key, value in batch.items()}
            labels = inputs.pop("labels")
            with turned(found, (node + 1) / 2) as leaves:
                loss = example_losses(model(**inputs).logits, labels).mean()
                slopes = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            shares[row] -= torch.cat(slopes).double().cpu() * (weight / 2)
        if progress:
            progress(done)
    return shares


@contextmanager
def turned(found: list[Dial], to: float) -> Iterator[list[Tensor]]:
    """Scale all adapters by one number, and hand out the leaves whose gradients say what a little more of each would do."""
    leaves = [dial.full.new_full((len(dial.sites),), to, requires_grad=True) for dial in found]
    try:
        with torch.enable_grad():
            for dial, leaf in zip(found, leaves, strict=True):
                setattr(dial.module, dial.attribute, dial.full * leaf)
            yield leaves
    finally:
        for dial in found:
            setattr(dial.module, dial.attribute, dial.full)


def _estimate(per_batch: Tensor) -> Estimate:
    if not torch.isfinite(per_batch).all():
        raise InputError("rehearsal: a loss that is not finite; lower --learning-rate or leave it out with --rehearse 0")
    count = len(per_batch)
    error = float(per_batch.std() / count**0.5) if count > 1 else float("nan")
    return Estimate(mean=float(per_batch.mean()), error=error)
