"""A base model and a sample of its task, in the form that `planner.probe` takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from spectra import Checkpoint, InputError
from trainer.base_model import load_model, load_tokenizer, resolved
from trainer.data.dataset import batches, read_texts
from trainer.data.tokenize import tokenise
from trainer.limits import require_device, require_length, require_vocabulary
from trainer.settings import LossOn, Precision, Task

PROBE_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A model with the head its task needs, and batches of sampled examples."""

    model: Any
    task: Task
    batches: Iterator[dict[str, Tensor]]
    examples: int


def load_sample(
    checkpoint: Checkpoint,
    data: str | Path,
    *,
    samples: int,
    max_length: int,
    seed: int,
    loss_on: LossOn = "completion",
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Sample:
    """Load a model and draw examples without replacement.

    Args:
        checkpoint: the base model.
        data: a dataset file; its columns decide the task and the head.
        samples: how many examples; all of them if the file has fewer.
        max_length: in tokens.
        seed: of the draw and of a new head.
        loss_on: what the loss counts; see `tokenise`.
        precision: of the model's weights.
        device: where the model goes.

    Raises:
        InputError: an unusable file or model.
    """
    require_device(device)  # first: texts and models may take minutes
    texts = read_texts(data)
    labels = texts.labels if texts.task == "classification" else ()
    if texts.task == "classification" and loss_on != "completion":
        raise InputError("`loss_on` has no effect on a classifier, whose loss counts labels; leave it out")
    if len(labels) == 1:
        raise InputError(f"{data}: only one label, {labels[0]!r}; there is nothing to tell apart")
    tokenizer = load_tokenizer(checkpoint.location)
    require_length(checkpoint, max_length)
    drawn = replace(texts, rows=texts.rows.shuffle(seed=seed).select(range(min(samples, len(texts.rows)))))
    examples = tokenise(drawn, tokenizer, max_length, labels, loss_on=loss_on)
    require_vocabulary(checkpoint, tokenizer, examples.rows["input_ids"], Path(data))
    model = load_model(checkpoint, texts.task, labels, seed, tokenizer.pad_token_id, resolved(precision)).to(device)
    # Examples of like length stand together, which leaves little padding; the longest come first, so that memory that does not
    # suffice shows at once.
    order = sorted(range(len(examples.rows)), key=lambda row: -len(examples.rows[row]["input_ids"]))
    drawn_batches = batches(replace(examples, rows=examples.rows.select(order)), tokenizer, PROBE_BATCH)
    return Sample(model=model, task=texts.task, batches=drawn_batches, examples=len(examples.rows))
