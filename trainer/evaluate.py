"""Held-out evaluation: what a run reached, beside what costs nothing."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from planner import Plan, example_losses
from spectra import InputError
from trainer.adapters import PLAN, WEIGHTS, AdapterConfig, build, find_base, load_config, load_state
from trainer.data import Examples, batches, read_texts, tokenise
from trainer.models import load_tokenizer
from trainer.reports import Evaluation, Score

Progress = Callable[[int, int], None]
BATCH = 64


def evaluate(
    run: str | Path, data: str | Path, *, base: str | Path | None = None, progress: Progress | None = None
) -> Evaluation:
    """Evaluate a run's adapters.

    Args:
        run: what `plan train` wrote.
        data: a dataset file with the columns that the run was trained on.
        base: the base model, if it has moved.
        progress: called as progress(done, total), in examples.

    Raises:
        InputError: not a run, unusable data, or a label that the run does not know.
    """
    run = Path(run)
    config = load_config(run)
    checkpoint = find_base(config, base)
    texts = read_texts(data)
    if config.kind == "causal" and texts.kind == "classification":
        raise InputError(f"{data}: has labels, but the run is a language model; give a file with 'text' alone")
    tokenizer = load_tokenizer(checkpoint.folder)
    examples = tokenise(texts, tokenizer, config.max_length, config.labels)
    model = build(checkpoint, Plan.load(run / PLAN), config).eval()
    total = 2 * len(examples.rows)
    untrained = _score(model, examples, tokenizer, lambda done: progress(done, total) if progress else None)
    load_state(run / WEIGHTS, model)
    trained = _score(model, examples, tokenizer, lambda done: progress(total // 2 + done, total) if progress else None)
    return Evaluation(
        examples=len(examples.rows),
        truncated=examples.truncated,
        trained=trained,
        untrained=untrained,
        majority=_majority(config, examples),
    )


@torch.inference_mode()
def _score(model: Any, examples: Examples, tokenizer: Any, progress: Callable[[int], None]) -> Score:
    losses, right = [], []
    for batch in batches(examples, tokenizer, BATCH):
        labels = batch.pop("labels").to(model.device)
        logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
        losses += example_losses(logits, labels).tolist()
        if labels.ndim == 1:
            right += (logits.argmax(-1) == labels).tolist()
        progress(len(losses))
    return Score(loss=math.fsum(losses) / len(losses), accuracy=sum(right) / len(right) if right else math.nan)


def _majority(config: AdapterConfig, examples: Examples) -> Score:
    if not config.labels:
        return Score(loss=math.nan, accuracy=math.nan)
    labels = list(examples.rows["labels"])
    favourite = config.label_counts.index(max(config.label_counts))
    total = sum(config.label_counts)
    loss = math.fsum(-math.log(config.label_counts[label] / total) for label in labels) / len(labels)
    return Score(loss=loss, accuracy=labels.count(favourite) / len(labels))
