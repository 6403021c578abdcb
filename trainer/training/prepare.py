"""What a run needs, checked before anything is written: settings with a plan's hints, tokenised data, the adapters' config."""

import hashlib
import math
import os
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
from trainer.data.chat.named import template_text
from trainer.data.dataset import mix, read_texts
from trainer.data.examples import Examples, Texts
from trainer.data.files import content_sha256
from trainer.data.resolve import Pass, require_rows, resolved_data
from trainer.data.tokenize import tokenise
from trainer.limits import require_length, require_vocabulary
from trainer.settings import DataSettings, TrainSettings
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
    noted: DataSettings | None = None,
) -> Run:
    """Read, check and tokenise everything.

    The run's settings have nothing about data left open: what `noted` says, of a run that is resumed, else what is found now.

    Raises:
        InputError: a plan, file or setting that does not fit the others.
    """
    require_match(plan, checkpoint)
    _require_evaluation(settings, evaluation)
    parts = [read_texts(file, settings=settings) for file in files]
    labels, counts = _labels(parts, plan)
    require_effect(Situation(plan=plan, settings=settings, task=parts[0].task, evaluates=evaluation is not None))
    require_rows(settings, parts)
    template = template_text(settings.chat_template) if settings.chat_template else None
    tokenizer = load_tokenizer(checkpoint.location, template)
    made, asked = _pass(settings), settings.max_length
    data = resolved_data(settings.data(), parts, tokenizer, checkpoint, made, noted)
    settings = settings.model_copy(update=dict(data))
    require_length(checkpoint, data.length)
    config = AdapterConfig(
        base_model_name_or_path=checkpoint.source,
        task=parts[0].task,
        labels=labels,
        label_counts=tuple(counts[label] for label in labels),
        data=data,
        chat_template=template,
        conversations=any("messages" in part.rows.column_names for part in parts),
        seed=settings.seed,
        pad_token_id=tokenizer.pad_token_id,
        base_weights=checkpoint.weights,
        precision=resolved(settings.precision),
        mixture=settings.mixture(),
    )
    options: dict[str, Any] = {"labels": labels, "settings": data}
    tokenised = [tokenise(part, tokenizer, data.length, packing=settings.packing, **options) for part in parts]
    held = read_texts(evaluation, settings=data) if evaluation else None
    held_out = tokenise(held, tokenizer, data.length, **options) if held else None
    if asked == "auto":
        _tell_of_length(tokenised, data.length, made.rows)
    for file, part in zip([*files, evaluation], [*tokenised, held_out], strict=True):
        if file and part:
            require_vocabulary(checkpoint, tokenizer, part.rows["input_ids"], Path(file))
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


def _require_evaluation(settings: TrainSettings, evaluation: str | Path | None) -> None:
    if settings.grow and evaluation:
        raise InputError(
            "`grow` keeps no best adapters on the way, because their ranks are not final; leave the evaluation file out"
        )
    if settings.patience and not evaluation:
        raise InputError(f"`patience` {settings.patience} needs an evaluation file to watch; give `evaluation`")


def _pass(settings: TrainSettings) -> Pass:
    """What one training pass of one process is made of."""
    rows = math.ceil(settings.batch_size / settings.accumulation / int(os.environ.get("WORLD_SIZE", 1)))
    precision = resolved(settings.precision)
    return Pass(rows=rows, precision=precision, recompute=settings.gradient_checkpointing, packing=settings.packing)


def _tell_of_length(tokenised: Sequence[Examples], length: int, rows: int) -> None:
    """Say that a maximum length that was found here is too small for some examples."""
    if is_main_process() and any(part.truncated or part.dropped for part in tokenised):
        LOG.info(
            f"some examples are longer than `max_length` {length:,}, which is what the model has positions for and the memory"
            f" is estimated to hold of {rows} rows; with more `accumulation`, or `gradient_checkpointing`, it holds longer ones"
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
        whole.update(content_sha256(file).encode())
    return whole.hexdigest()
