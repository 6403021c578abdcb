"""Trial run: a short run of uniform LoRA, and which modules' adapters reduced the loss.

Gradients at the first step say how strongly a task pulls on a module, not whether yielding there helps. So a trial run trains
every module a little, and what that takes off the loss of held-out examples is attributed to the modules (attribution.py).
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import planner
from planner import AllocationSettings
from planner.sensitivity.report import Estimate, TrialRun
from planner.sensitivity.statistics import rank_agreement
from spectra import Checkpoint, InputError
from spectra.checkpoint.names import projection_type, resolve
from spectra.core.log import warnings_only
from spectra.core.progress import Progress, silent
from trainer.adapters.config import AdapterConfig, load_config
from trainer.attribution.attribution import MOST, Batches, adapter_scales, attribute
from trainer.base_model import load_tokenizer
from trainer.data.dataset import batches, read_texts
from trainer.data.sampling import PROBE_BATCH
from trainer.data.split import split
from trainer.data.tokenize import tokenise
from trainer.settings import Task, TrainSettings
from trainer.training.train import train_loaded

STEPS: Mapping[Task, int] = {"causal": 30, "classification": 0}  # by default; classifiers' plans were worse for it
RANK = 2
MEASURED = 64  # held-out examples; more do not make two trial runs more alike
LEAST_BATCHES = 8  # where the sample allows: standard errors are over batches


def run_trial(
    checkpoint: Checkpoint,
    data: str | Path,
    settings: TrainSettings,
    *,
    modules: str | None = None,
    base: Any = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> tuple[TrialRun, Mapping[str, Estimate]]:
    """Train a uniform LoRA on nine tenths of a file and measure every module's loss reduction on the rest.

    Args:
        checkpoint: the base model.
        data: a dataset file.
        settings: how to train; `max_steps` says how short the run is.
        modules: the ones that get an adapter; by default all.
        base: the model, if it is loaded already in the settings' precision; it is trained and of no use afterwards.
        device: where to measure.
        progress: told after each step of training and each pass of measuring.

    Returns:
        What was done, and each module's loss reduction in nats per example under the checkpoint's names.

    Raises:
        InputError: an unusable file or model, or a run that diverges.
    """
    # Measuring ends when it is exact enough, so that the estimate of time errs on the long side.
    whole, begun = settings.max_steps + MOST, time.monotonic()

    def training(done: int, total: int | None = None, note: str = "") -> None:
        progress(done, whole, note)

    model, sample = short_run(checkpoint, Path(data), settings, device, training, base, modules)
    found = adapter_scales(model)
    measured = attribute(model, found, sample, lambda done: progress(settings.max_steps + done, whole, "measuring"))
    progress(whole, whole, f"measured at {measured.points} points")
    shares = measured.shares
    names = [site for scale in found for site in scale.sites]
    # A task head puts prefixes before the live names; reports are joined by the checkpoint's.
    stored = resolve(names, list(checkpoint.modules()))
    described = TrialRun(
        rank=RANK,
        steps=settings.max_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.rate,
        examples=sum(len(batch["labels"]) for batch in sample),
        loss_reduction=_estimate(shares.sum(1)),
        gap=measured.gap,
        points=measured.points,
        agreement=_agreement(shares, names),
        seconds=time.monotonic() - begun,
    )
    return described, {stored[name]: _estimate(column) for name, column in zip(names, shares.T, strict=True)}


def short_run(
    checkpoint: Checkpoint,
    data: Path,
    settings: TrainSettings,
    device: str,
    progress: Progress = silent,
    base: Any = None,
    modules: str | None = None,
) -> tuple[Any, Batches]:
    """The model after the run, and a sample of what it did not see."""
    plan = planner.allocate(f"rank {RANK}", AllocationSettings(strategy="uniform", modules=modules), model=checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        training, held = split(data, Path(folder))
        _shorten(training, settings.max_steps * settings.batch_size)
        run = Path(folder) / "run"
        with warnings_only():
            model = train_loaded(plan, checkpoint, base, training, run, settings, progress).to(device)
        return model, _sample(held, load_config(run), checkpoint)


def _shorten(file: Path, examples: int) -> None:
    """Leave a language model's file the examples that the run will see: tokenising the others would take as long as the run."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    # `split` has shuffled them, so the first will do. A classifier has to see every label, and keeps them all.
    if "label" not in json.loads(lines[0]):
        file.write_text("".join(lines[:examples]), encoding="utf-8")


def _sample(held: Path, config: AdapterConfig, checkpoint: Checkpoint) -> Batches:
    texts = read_texts(held, settings=config.data)
    drawn = replace(texts, rows=texts.rows.select(range(min(MEASURED, len(texts.rows)))))
    tokenizer = load_tokenizer(checkpoint.location, config.chat_template)
    examples = tokenise(drawn, tokenizer, config.data.length, config.labels, settings=config.data)
    # Smaller batches for a small sample: the standard error needs several, even if each is then noisier.
    return list(batches(examples, tokenizer, max(1, min(PROBE_BATCH, len(examples.rows) // LEAST_BATCHES))))


def _agreement(shares: Tensor, names: Sequence[str]) -> float:
    """How well the two halves of the held-out batches rank the modules alike, each compared with its projection type."""
    if len(shares) < 2:
        return math.nan
    one, other = (shares[half::2].mean(0).numpy() for half in (0, 1))
    return rank_agreement(one, other, [projection_type(name) for name in names])


def _estimate(per_batch: Tensor) -> Estimate:
    if not torch.isfinite(per_batch).all():
        raise InputError("trial run: a loss that is not finite; lower `learning_rate`, or set `trial_steps` to 0 to leave it out")
    count = len(per_batch)
    error = float(per_batch.std() / count**0.5) if count > 1 else float("nan")
    return Estimate(mean=float(per_batch.mean()), error=error)
