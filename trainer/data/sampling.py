"""A base model and a sample of its task, in the form that `planner.probe` takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from spectra import Checkpoint, InputError
from trainer.base_model import load_model, load_tokenizer, resolved
from trainer.data.chat.named import template_text
from trainer.data.dataset import batches, read_texts
from trainer.data.resolve import Pass, require_rows, resolved_data
from trainer.data.tokenize import tokenise
from trainer.limits import require_device, require_length, require_vocabulary
from trainer.settings import DataSettings, Precision, Task

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
    seed: int,
    settings: DataSettings | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Sample:
    """Load a model and draw examples without replacement.

    Args:
        checkpoint: the base model.
        data: a dataset file; its columns decide the task and the head.
        samples: how many examples; all of them if the file has fewer.
        seed: of the draw and of a new head.
        settings: how rows become tokens; what they leave open is found here.
        precision: of the model's weights.
        device: where the model goes.

    Raises:
        InputError: an unusable file or model.
    """
    require_device(device)  # first: texts and models may take minutes
    settings, precise = settings or DataSettings(), resolved(precision)
    texts = read_texts(data, settings=settings)
    labels = texts.labels if texts.task == "classification" else ()
    if texts.task == "classification" and settings.loss_on != "completion":
        raise InputError("`loss_on` has no effect on a classifier, whose loss counts labels; leave it out")
    if texts.task == "causal":
        require_rows(settings, [texts])
    if len(labels) == 1:
        raise InputError(f"{data}: only one label, {labels[0]!r}; there is nothing to tell apart")
    tokenizer = load_tokenizer(checkpoint.location, settings.chat_template and template_text(settings.chat_template))
    found = resolved_data(settings, [texts], tokenizer, checkpoint, Pass(rows=PROBE_BATCH, precision=precise))
    require_length(checkpoint, found.length)
    drawn = replace(texts, rows=texts.rows.shuffle(seed=seed).select(range(min(samples, len(texts.rows)))))
    examples = tokenise(drawn, tokenizer, found.length, labels, settings=found)
    require_vocabulary(checkpoint, tokenizer, examples.rows["input_ids"], Path(data))
    model = load_model(checkpoint, texts.task, labels, seed, tokenizer.pad_token_id, precise).to(device)
    # Examples of like length stand together, which leaves little padding; the longest come first, so that memory that does not
    # suffice shows at once.
    order = sorted(range(len(examples.rows)), key=lambda row: -len(examples.rows[row]["input_ids"]))
    drawn_batches = batches(replace(examples, rows=examples.rows.select(order)), tokenizer, PROBE_BATCH)
    return Sample(model=model, task=texts.task, batches=drawn_batches, examples=len(examples.rows))
