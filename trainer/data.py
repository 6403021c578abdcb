"""Dataset files -> tokenised examples.

A file with `text` and `label` columns is a classification task, one with `text` alone is causal language modelling. Reading,
caching and memory mapping are the datasets library's; what is ours is saying precisely what is wrong with a file.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, PreTrainedTokenizerBase

from spectra import InputError

TaskKind = Literal["classification", "causal"]
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One dataset file, read and checked but not tokenised."""

    path: Path
    rows: Any
    """A datasets.Dataset with `text` and, for classification, `label` as strings."""

    @property
    def kind(self) -> TaskKind:
        """What the columns say the file is for."""
        return "classification" if "label" in self.rows.column_names else "causal"

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.rows["label"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Token ids, ready to be collated."""

    kind: TaskKind
    rows: Any
    """A datasets.Dataset with `input_ids`, `attention_mask` and `labels`: a class id, or one token id per token."""
    truncated: int
    """How many texts were longer than the maximum length and lost their end."""


def read_texts(path: str | Path) -> Texts:
    """Read a dataset file: .jsonl, .json, .csv or .parquet.

    Raises:
        InputError: missing, empty or malformed file (with the line), no `text` column, or a row without a usable text or label.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file, no examples")
    rows = _load(path)
    if "text" not in rows.column_names:
        raise InputError(f"{path}: no column 'text' among {', '.join(rows.column_names)}")
    rows = rows.select_columns([name for name in ("text", "label") if name in rows.column_names])
    if len(rows) == 0:
        raise InputError(f"{path}: no examples")
    strings = datasets.Features({name: datasets.Value("string") for name in rows.column_names})
    return Texts(path=path, rows=rows.map(_checked, fn_kwargs={"path": str(path)}, with_indices=True, features=strings))


def _load(path: Path) -> Any:
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train")
    except (datasets.exceptions.DatasetGenerationError, StopIteration, ValueError) as error:
        raise InputError(_what_is_wrong(path, error)) from None


def _what_is_wrong(path: Path, error: Exception) -> str:
    """The first bad line of a JSON-lines file, or what the reader said."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = json.loads(line) if line.strip() else {}
            except UnicodeDecodeError as fault:
                return f"{path}:{number}: not UTF-8 text (byte {fault.start} of the line)"
            except ValueError as fault:
                return f"{path}:{number}: not JSON: {fault}"
            if not isinstance(record, dict):
                return f"{path}:{number}: expected an object with 'text', found {type(record).__name__}"
    reason = str(error.__cause__ or error).strip() or "no examples"
    return f"{path}: no examples" if "no data" in reason else f"{path}: cannot be read: {reason.splitlines()[0]}"


def _checked(row: dict[str, Any], index: int, path: str) -> dict[str, str]:
    if not isinstance(row["text"], str) or not row["text"].strip():
        raise InputError(f"{path}: row {index + 1}: text is {row['text']!r}; every row needs one")
    if row.get("label", "any") in (None, ""):
        raise InputError(f"{path}: row {index + 1}: label is missing")
    return {name: str(value) for name, value in row.items()}


def tokenise(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str] = ()) -> Examples:
    """Turn texts into token ids, cut at `max_length`.

    Args:
        texts: what `read_texts` returned.
        tokenizer: the model's own.
        max_length: in tokens.
        labels: the run's labels, whose positions become class ids; none for causal language modelling.

    Raises:
        InputError: a label that the run does not know.
    """
    ids = {label: position for position, label in enumerate(labels)}
    if labels:
        _require_known(texts, ids)
    full = tokenizer(list(texts.rows["text"]), truncation=True, max_length=max_length, return_overflowing_tokens=False)
    if not labels:
        _require_targets(texts, full["input_ids"])
    longer = sum(len(tokens) == max_length for tokens in full["input_ids"])
    truncated = longer and _count_longer(texts, tokenizer, max_length)
    targets = [ids[label] for label in texts.rows["label"]] if labels else [list(tokens) for tokens in full["input_ids"]]
    columns = {"input_ids": full["input_ids"], "attention_mask": full["attention_mask"], "labels": targets}
    return Examples(kind="classification" if labels else "causal", rows=datasets.Dataset.from_dict(columns), truncated=truncated)


def _count_longer(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    lengths = tokenizer(list(texts.rows["text"]), truncation=False, return_length=True, verbose=False)["length"]
    return sum(length > max_length for length in lengths)


def _require_targets(texts: Texts, token_ids: list[list[int]]) -> None:
    for number, tokens in enumerate(token_ids, start=1):
        if len(tokens) < 2:
            raise InputError(f"{texts.path}: row {number}: a text of {len(tokens)} token has nothing to predict; remove it")


def _require_known(texts: Texts, ids: dict[str, int]) -> None:
    if texts.kind != "classification":
        raise InputError(f"{texts.path}: no column 'label', but the task is classification")
    for number, label in enumerate(texts.rows["label"], start=1):
        if label not in ids:
            raise InputError(f"{texts.path}: row {number}: label {label!r} is unknown to the run; it knows {', '.join(ids)}")


def collator(kind: TaskKind, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Pads a list of examples to the longest, and token labels with -100."""
    if kind == "classification":
        return DataCollatorWithPadding(tokenizer)
    return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)


def batches(examples: Examples, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[dict[str, Tensor]]:
    """All examples once, the longest first, so that a batch pads little and memory peaks at the start."""
    collate = collator(examples.kind, tokenizer)
    lengths = [len(tokens) for tokens in examples.rows["input_ids"]]
    ranking = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(ranking), size):
        yield dict(collate([examples.rows[position] for position in ranking[start : start + size]]))
