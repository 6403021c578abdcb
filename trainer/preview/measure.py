"""A dataset file read and tokenised as training would, and counted."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from spectra import Checkpoint, InputError
from trainer.base_model import load_tokenizer, resolved
from trainer.data.chat.named import template_text
from trainer.data.dataset import columns_of, read_texts
from trainer.data.examples import Texts
from trainer.data.resolve import Pass, require_rows, resolved_data
from trainer.data.tokenize import tokenise
from trainer.limits import require_vocabulary
from trainer.preview.report import Cut, DataReport, Lengths, Same, Shown, Stretch
from trainer.settings import DataSettings, TrainSettings

UNBOUNDED = 2**24  # tokens: more than any model reads
BINS = 12
TRIED = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
SHOWN = 3


def measure(
    checkpoint: Checkpoint, file: Path, settings: DataSettings | None = None, *, held_out: Sequence[Path] = ()
) -> DataReport:
    """Say what a file is to a model.

    Args:
        checkpoint: the model; only its tokenizer and its shape are read.
        file: a dataset file, a folder of them, or a data set on the Hub.
        settings: how rows become tokens.
        held_out: files to evaluate on, of which nothing should be in the file.

    Raises:
        InputError: a file that cannot be used, with the row.
    """
    settings = settings or DataSettings()
    texts = read_texts(file, evaluation=True, settings=settings)
    if texts.task == "causal" and not texts.asks:
        require_rows(settings, [texts])
    template = template_text(settings.chat_template) if settings.chat_template else None
    tokenizer = load_tokenizer(checkpoint.location, template)
    usual = TrainSettings()
    made = Pass(rows=usual.batch_size, precision=resolved(usual.precision))
    known = resolved_data(settings, [texts], tokenizer, checkpoint, made)
    labels = texts.labels if texts.task == "classification" else ()
    length, answers, learned, shown = ([], [], 0, ()) if texts.asks else _tokens(texts, tokenizer, known, labels, checkpoint)
    hashes = [_hash(row) for row in texts.rows]
    return DataReport(
        file=str(file),
        model=checkpoint.name,
        format=texts.format,
        task="multiple-choice" if texts.asks else texts.task,
        rows=len(texts.rows),
        ignored=columns_of(file, settings).ignored,
        settings=known,
        examples=len(length) if not texts.asks else len(texts.rows),
        learned_tokens=learned,
        other_tokens=sum(length) - learned,
        lengths=_lengths(length),
        cuts=() if labels or texts.asks else _cuts(length, answers, known),
        labels=dict(sorted(Counter(texts.rows["label"]).items())) if labels else {},
        duplicates=len(hashes) - len(set(hashes)),
        overlap=tuple(_same(other, texts, settings) for other in held_out),
        shown=shown,
    )


def _tokens(
    texts: Texts, tokenizer: Any, settings: DataSettings, labels: Sequence[str], checkpoint: Checkpoint
) -> tuple[list[int], list[int], int, tuple[Shown, ...]]:
    """Every example's tokens and those of its last answer, how many are learned in all, and a few examples."""
    rows = tokenise(texts, tokenizer, UNBOUNDED, labels, settings=settings).rows
    require_vocabulary(checkpoint, tokenizer, rows["input_ids"], texts.path)
    length, answers, learned = [], [], 0
    for row in rows:
        length.append(len(row["input_ids"]))
        if labels:
            continue
        counted = np.asarray(row["labels"]) != -100
        learned += int(counted.sum())
        given = np.flatnonzero(~counted)
        last = int(np.flatnonzero(counted)[-1])
        before = given[given < last]
        answers.append(last - int(before[-1]) if len(before) else last + 1)
    picked = sorted({0, len(rows) // 2, len(rows) - 1})[:SHOWN]
    shown = tuple(_shown(at, rows[at], texts, tokenizer, bool(labels), len(rows)) for at in picked)
    return length, answers, learned, shown


def _shown(at: int, row: Mapping[str, Any], texts: Texts, tokenizer: Any, classifies: bool, examples: int) -> Shown:
    marks = [False] * len(row["input_ids"]) if classifies else [label != -100 for label in row["labels"]]
    stretches, done, said = [], 0, ""
    for learned, group in groupby(marks):
        count = len(list(group))
        # What the tokens add to the text before them: many tokenizers take a space from the beginning of what they write.
        text = tokenizer.decode(row["input_ids"][: done + count])
        stretches.append(Stretch(text=text[len(said) :], tokens=count, learned=learned))
        done, said = done + count, text
    # Where rows give several examples, which row an example is of is not kept; the share of the way tells about where.
    number = texts.rows[at]["row"] if examples == len(texts.rows) else at * len(texts.rows) // examples + 1
    return Shown(row=number, stretches=tuple(stretches))


def _lengths(length: Sequence[int]) -> tuple[Lengths, ...]:
    if not length:
        return ()
    edges = np.unique(np.linspace(min(length), max(length) + 1, BINS + 1).round().astype(int))
    counts, edges = np.histogram(length, edges) if len(edges) > 1 else ([len(length)], np.array([length[0], length[0] + 1]))
    return tuple(
        Lengths(least=int(low), most=int(high) - 1, examples=int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    )


def _cuts(length: Sequence[int], answers: Sequence[int], settings: DataSettings) -> tuple[Cut, ...]:
    longest = max(length, default=0)
    tried = sorted({*(number for number in TRIED if number < longest), settings.length})
    return tuple(
        Cut(
            max_length=most,
            cut=sum(most < tokens and answer < most for tokens, answer in zip(length, answers, strict=True)),
            left_out=sum(most < tokens and answer >= most for tokens, answer in zip(length, answers, strict=True)),
        )
        for most in tried
    )


def _hash(value: Any) -> bytes:
    said = {name: part for name, part in value.items() if name != "row"} if isinstance(value, Mapping) else value
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def _prompt(row: Mapping[str, Any]) -> Any:
    """What a row asks."""
    if "messages" in row:
        return next((turn["content"] for turn in row["messages"] if turn["role"] == "user"), "")
    return row.get("prompt", row.get("text"))


def _same(file: Path, texts: Texts, settings: DataSettings) -> Same:
    try:
        other = read_texts(file, evaluation=True, settings=settings)
    except InputError as fault:
        raise InputError(f"to compare with: {fault}") from None
    rows, prompts = {_hash(row) for row in texts.rows}, {_prompt(row) for row in texts.rows}
    return Same(
        file=str(file),
        rows=sum(_hash(row) in rows for row in other.rows),
        prompts=sum(_prompt(row) in prompts for row in other.rows),
        of=len(other.rows),
    )
