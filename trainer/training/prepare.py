"""What a run needs, checked before anything is written: settings with a plan's hints, tokenised data, the adapters' config."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import Plan, require_match
from spectra import Checkpoint, InputError
from spectra.core.distributed import is_main_process
from spectra.core.log import LOG
from trainer.adapters.config import AdapterConfig
from trainer.base_model import load_tokenizer, resolved
from trainer.data.dataset import mix, read_texts
from trainer.data.examples import Examples, Texts
from trainer.data.tokenize import tokenise
from trainer.limits import require_length, require_vocabulary
from trainer.settings import TrainSettings
from trainer.training.effects import Situation, require_effect


def with_hints(settings: TrainSettings, plan: Plan) -> TrainSettings:
    """The settings, with what the plan suggests where nothing was chosen."""
    hints = plan.training
    used = hints and hints.model_copy(update=dict.fromkeys(settings.model_fields_set & hints.given().keys()))
    if not used or not used.given():
        return settings
    if is_main_process():
        LOG.info(f"{used.shown()}: as the plan says ({used.found})")
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
    return TrainSettings.checked(chosen | used.given(), "the plan's training hints")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything a run needs, checked before anything is written."""

    plan: Plan
    checkpoint: Checkpoint
    settings: TrainSettings
    config: AdapterConfig
    data_sha256: str
    tokenizer: Any
    examples: Examples
    evaluation: Examples | None


def prepare(
    plan: Plan,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    evaluation: str | Path | None,
    settings: TrainSettings,
) -> Run:
    """Read, check and tokenise everything.

    Raises:
        InputError: a plan, file or setting that does not fit the others.
    """
    require_match(plan, checkpoint)
    if settings.grow and evaluation:
        raise InputError(
            "`grow` keeps no best adapters on the way, because their ranks are not final; leave the evaluation file out"
        )
    if settings.patience and not evaluation:
        raise InputError(f"`patience` {settings.patience} needs an evaluation file to watch; give `evaluation`")
    parts = [read_texts(file) for file in files]
    labels, counts = _labels(parts, plan)
    require_effect(Situation(plan=plan, settings=settings, task=parts[0].task, evaluates=evaluation is not None))
    tokenizer = load_tokenizer(checkpoint.location)
    require_length(checkpoint, settings.max_length)
    config = AdapterConfig(
        base_model_name_or_path=checkpoint.source,
        task=parts[0].task,
        labels=labels,
        label_counts=tuple(counts[label] for label in labels),
        max_length=settings.max_length,
        loss_on=settings.loss_on,
        seed=settings.seed,
        pad_token_id=tokenizer.pad_token_id,
        base_weights=checkpoint.weights,
        precision=resolved(settings.precision),
        mixture=settings.mixture(),
    )
    options: dict[str, Any] = {"labels": labels, "loss_on": settings.loss_on}
    tokenised = [tokenise(part, tokenizer, settings.max_length, packing=settings.packing, **options) for part in parts]
    held_out = tokenise(read_texts(evaluation), tokenizer, settings.max_length, **options) if evaluation else None
    pairs = [*zip(files, tokenised, strict=True), *([(Path(evaluation), held_out)] if evaluation and held_out else [])]
    for file, part in pairs:
        require_vocabulary(checkpoint, tokenizer, part.rows["input_ids"], file)
    return Run(
        plan=plan,
        checkpoint=checkpoint,
        settings=settings,
        config=config,
        data_sha256=_digest(files, weights, evaluation),
        tokenizer=tokenizer,
        examples=mix(tokenised, weights, settings.seed),
        evaluation=held_out,
    )


def _labels(parts: Sequence[Texts], plan: Plan) -> tuple[tuple[str, ...], Counter[str]]:
    """The labels of all files together, and how often each occurs; nothing for a language model.

    Raises:
        InputError: files of different kinds, a single label, or nothing to train.
    """
    if len({part.task for part in parts}) > 1:
        tasks = ", ".join(f"{part.path} is {part.task}" for part in parts)
        raise InputError(f"files of one run must be of one task: {tasks}")
    if parts[0].task == "causal":
        if not plan.parameters:
            raise InputError("the plan adapts nothing and a language model has no new head: there is nothing to train")
        return (), Counter()
    counts = Counter(label for part in parts for label in part.rows["label"])
    if len(counts) == 1:
        raise InputError(f"{parts[0].path}: only one label, {next(iter(counts))!r}; there is nothing to tell apart")
    return tuple(sorted(counts)), counts


def _digest(files: Sequence[Path], weights: Sequence[float] | None, evaluation: str | Path | None) -> str:
    whole = hashlib.sha256(repr((len(files), None if weights is None else list(weights))).encode())
    for file in [*files, *([Path(evaluation)] if evaluation else [])]:
        # A digest of digests, so that text moved from the end of one file to the start of the next is noticed.
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
