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
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import planner
from planner.sensitivity.report import Estimate, TrialRun
from spectra import Checkpoint, InputError
from spectra.checkpoint.names import resolve
from trainer import train  # not from trainer.train, which would bind that name to the module
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.store import load_adapters
from trainer.attribution.attribution import POINTS, Batches, adapter_scales, attribute
from trainer.base_model import load_tokenizer
from trainer.data.dataset import batches, read_texts
from trainer.data.examples import Texts
from trainer.data.sampling import PROBE_BATCH
from trainer.data.split import split
from trainer.data.tokenize import tokenise
from trainer.settings import TaskKind, TrainSettings

STEPS: Mapping[TaskKind, int] = {"causal": 30, "classification": 0}  # by default; classifiers' plans were worse for it
RANK = 2
MEASURED = 64  # held-out examples; more do not make two rehearsals more alike
LEAST_BATCHES = 8  # where the sample allows: standard errors are over batches
Progress = Callable[[int, int], None]


def run_trial(
    checkpoint: Checkpoint,
    data: str | Path,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[TrialRun, Mapping[str, Estimate]]:
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
    found = adapter_scales(model)
    shares = attribute(model, found, sample, lambda done: said(settings.max_steps + done, 0, 0.0))
    names = [site for scale in found for site in scale.sites]
    stored = resolve(names, list(checkpoint.modules()))
    loss_reduction = _estimate(shares.sum(1))
    loss_reductions = {stored[name]: _estimate(column) for name, column in zip(names, shares.T, strict=True)}
    described = TrialRun(
        rank=RANK,
        steps=settings.max_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        examples=sum(len(batch["labels"]) for batch in sample),
        loss_reduction=loss_reduction,
    )
    return described, loss_reductions


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


def _estimate(per_batch: Tensor) -> Estimate:
    if not torch.isfinite(per_batch).all():
        raise InputError("rehearsal: a loss that is not finite; lower --learning-rate or leave it out with --rehearse 0")
    count = len(per_batch)
    error = float(per_batch.std() / count**0.5) if count > 1 else float("nan")
    return Estimate(mean=float(per_batch.mean()), error=error)
