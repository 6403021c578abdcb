"""Dataset files: reading them, mixing several, and batches of their examples.

The columns of a file say which format it has (formats.py) and so what it is for: classification, language modelling or questions.
Reading and memory mapping are the datasets library's; what is ours is saying precisely what is wrong with a file.
"""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from spectra import InputError
from trainer.data.examples import Examples, Texts
from trainer.data.formats import FORMATS, detect
from trainer.data.packing import CausalCollator
from trainer.settings import Task

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def read_texts(path: str | Path, *, evaluation: bool = False) -> Texts:
    """Read a dataset file: .jsonl, .json, .csv or .parquet.

    Args:
        path: the file.
        evaluation: whether the file may hold multiple-choice questions, which can be evaluated but not trained on.

    Raises:
        InputError: missing, empty or malformed file (with the line), columns that fit no format, or a row that does not fit its.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file, no examples")
    rows = load_rows(path)
    if len(rows) == 0:
        raise InputError(f"{path}: no examples")
    try:
        name = detect(rows.column_names, evaluation=evaluation)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None
    try:
        return Texts(path=path, format=name, rows=_canonical(rows, path, name))
    except UnicodeDecodeError as fault:  # the reader takes any bytes, and decodes a row only when it is asked for it
        raise InputError(_what_is_wrong(path, fault)) from None


def _canonical(rows: Any, path: Path, name: str) -> Any:
    # The library's cache knows a function by its name alone and would return what an older version of ours had made.
    features = datasets.Features(_feature(FORMATS[name].becomes | {"row": "int64"}))
    options = {"remove_columns": rows.column_names, "features": features, "load_from_cache_file": False}
    return rows.map(_checked, with_indices=True, fn_kwargs={"path": str(path), "name": name}, **options)


def _feature(described: Any) -> Any:
    """The datasets library's description of a type."""
    if isinstance(described, dict):
        return {name: _feature(inner) for name, inner in described.items()}
    return datasets.List(_feature(described[0])) if isinstance(described, list) else datasets.Value(described)


def _checked(row: Any, index: int, path: str, name: str) -> dict[str, Any]:
    try:
        return FORMATS[name].canonical(row) | {"row": index + 1}
    except InputError as fault:
        raise InputError(f"{path}: row {index + 1}: {fault}") from None


def load_rows(path: Path) -> Any:
    """Read a dataset file as it is.

    Raises:
        InputError: a file that the reader cannot make sense of, with the line where that can be told.
    """
    try:
        options = _csv_options(path) if path.suffix == ".csv" else {}
        rows = datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train", **options)
        # A JSON column in which every text is a date has become moments, which cannot be written back as they were.
        moments = READERS[path.suffix] == "json" and "timestamp[" in str(rows.features)
        return datasets.Dataset.from_list(_records(path)) if moments else rows
    # An InputError is a ValueError, and would be taken for the reader's below.
    except InputError:
        raise
    except (datasets.exceptions.DatasetGenerationError, StopIteration, ValueError) as error:
        raise InputError(_what_is_wrong(path, error)) from None


def _records(path: Path) -> list[Any]:
    """The examples of a JSON file: a list of them, or one on each line."""
    text = path.read_text(encoding="utf-8-sig")
    return list(json.loads(text) if text.lstrip().startswith("[") else map(json.loads, filter(str.strip, text.split("\n"))))


def _csv_options(path: Path) -> dict[str, Any]:
    """Options of datasets.load_dataset that take every CSV field as it is written: an answer of 42 and a label of NA are text.

    Raises:
        InputError: a line with more or fewer fields than the header, which the reader would shift into the wrong columns.
    """
    # Python's default of 128 KiB is less than a long text; this is the most that a 32-bit C long takes, as on Windows.
    csv.field_size_limit(2**31 - 1)
    # Spreadsheets put a byte order mark in front, which would become part of the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines)
        for fields in lines:
            if fields and len(fields) != len(header):
                counts = f"{len(fields)} fields under {len(header)} columns"
                raise InputError(f"{path}:{lines.line_num}: {counts}; put fields that hold a comma in quotes")
    # Without `keep_default_na=False` the reader takes a label NA for a missing value.
    return {"features": datasets.Features(dict.fromkeys(header, datasets.Value("string"))), "keep_default_na": False}


def _what_is_wrong(path: Path, error: Exception) -> str:
    """The first bad line of a JSON-lines file, or what the reader said."""
    # The library's messages name no line, so the file is read a second time to find it.
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = json.loads(line) if line.strip() else {}
            except UnicodeDecodeError as fault:
                return f"{path}:{number}: not UTF-8 text (byte {fault.start} of the line)"
            except ValueError as fault:
                return f"{path}:{number}: not JSON: {fault}"
            if not isinstance(record, dict):
                return f"{path}:{number}: expected an object, one example, found {type(record).__name__}"
    reason = str(error.__cause__ or error).strip() or "no examples"
    return f"{path}: no examples" if "no data" in reason else f"{path}: cannot be read: {reason.splitlines()[0]}"


def mix(parts: Sequence[Examples], weights: Sequence[float] | None, seed: int) -> Examples:
    """Make one set of examples of several, for a run on several files.

    Args:
        parts: all classification over the same labels, or all causal; all packed or none.
        weights: how often to draw from each, in proportion, until each has been used up once; shorter ones repeat. Without
            weights the parts follow one another, and each example comes once.
        seed: of the draws.

    Raises:
        InputError: no parts, parts that differ in task or packing, or weights that do not fit them.
    """
    _require_alike(parts)
    if weights is None:
        rows = datasets.concatenate_datasets([part.rows for part in parts])
    else:
        _require_weights(weights, len(parts))
        shares = [weight / math.fsum(weights) for weight in weights]
        options = {"probabilities": shares, "stopping_strategy": "all_exhausted", "seed": seed}
        rows = datasets.interleave_datasets([part.rows for part in parts], **options)
    truncated, dropped = sum(part.truncated for part in parts), sum(part.dropped for part in parts)
    return Examples(task=parts[0].task, rows=rows, truncated=truncated, dropped=dropped)


def _require_alike(parts: Sequence[Examples]) -> None:
    if not parts:
        raise InputError("a mixture needs at least one file; found none")
    if len(tasks := sorted({part.task for part in parts})) > 1:
        raise InputError(f"a mixture must be of one task; found {' and '.join(tasks)}")
    if len({part.packed for part in parts}) > 1:
        raise InputError("a mixture of packed and unpacked examples; pack all or none")


def _require_weights(weights: Sequence[float], parts: int) -> None:
    if len(weights) != parts:
        raise InputError(f"{len(weights)} weights for {parts} files; give one each")
    if bad := [weight for weight in weights if not (math.isfinite(weight) and weight > 0)]:
        raise InputError(f"weight {bad[0]} of a mixture; every weight must be positive and finite")


def collator(task: Task, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Pads a list of examples to the longest, and token labels with -100; keeps packed examples apart."""
    return DataCollatorWithPadding(tokenizer) if task == "classification" else CausalCollator(tokenizer)


def batches(examples: Examples, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[dict[str, Tensor]]:
    """All examples once, the longest first, so that a batch pads little and memory peaks at the start."""
    collate = collator(examples.task, tokenizer)
    lengths = [len(tokens) for tokens in examples.rows["input_ids"]]
    ranking = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(ranking), size):
        yield dict(collate([examples.rows[position] for position in ranking[start : start + size]]))
