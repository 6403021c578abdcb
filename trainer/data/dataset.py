"""Dataset files: reading them, mixing several, and batches of their examples.

The columns of a file say which format it has (formats.py) and so what it is for: classification, language modelling or questions.
Its examples (files.py) become canonical rows, which the datasets library keeps on disk and not in memory.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from spectra import InputError
from spectra.core.distributed import is_main_process
from spectra.core.errors import first_line
from spectra.core.log import LOG
from trainer.data.examples import Examples, Texts
from trainer.data.files import content_sha256, records
from trainer.data.formats import FORMATS, Layout, layout_of
from trainer.data.packing import CausalCollator
from trainer.data.storage import folder, on_disk
from trainer.settings import DataSettings, Task


def read_texts(
    path: str | Path, *, evaluation: bool = False, settings: DataSettings | None = None, lenient: bool = False
) -> Texts:
    """Read a dataset file: .jsonl, .json, .csv (also packed) or .parquet, a folder of them, or a data set on the Hub.

    Args:
        path: the file, the folder, or hub:OWNER/NAME:SPLIT.
        evaluation: whether the file may hold multiple-choice questions, which can be evaluated but not trained on.
        settings: say which column is which, and who a speaker is, where names do not.
        lenient: whether they may name columns that the file has not, because they were made for a run's own files.

    Raises:
        InputError: missing, empty or malformed file (with the line), columns that fit no format, or a row that does not fit its.
    """
    path, settings = Path(path), settings or DataSettings()
    layout = columns_of(path, settings, evaluation=evaluation, lenient=lenient)
    if layout.ignored and is_main_process() and path not in _told:
        _told.add(path)
        LOG.info(f"{path}: read as {layout.format}; ignored columns: {', '.join(layout.ignored)}")
    features = datasets.Features(_feature(FORMATS[layout.format].becomes | {"row": "int64"}))
    try:
        rows = on_disk(_rows(path, layout), features)
    except OSError as error:
        raise InputError(f"{path}: its examples cannot be kept in {folder().name}: {first_line(error)}") from None
    # The library's fingerprint follows rows through every draw; made of the content, it finds tokens again that were kept.
    rows._fingerprint = hashlib.sha256(repr((content_sha256(path), layout)).encode()).hexdigest()[:32]
    return Texts(path=path, format=layout.format, rows=rows)


_told: set[Path] = set()  # files whose ignored columns have been named; a study reads each in every run


def columns_of(path: Path, settings: DataSettings, *, evaluation: bool = True, lenient: bool = False) -> Layout:
    """How a file is read, found from all its columns and from the first row that has something in each.

    Raises:
        InputError: see `read_texts`.
    """
    # Read twice: what the columns are is known only after the last row, and a fault in the file before anything is made of it.
    first: dict[str, Any] = {}
    for record in records(path):
        if record.keys() - first.keys() or None in first.values():
            first |= {name: value for name, value in record.items() if first.get(name) is None}
    if not first:
        raise InputError(f"{path}: no examples")
    try:
        named = settings.renamed()
        if lenient and not set(named.values()) <= first.keys():
            named = {}
        return layout_of(list(first), first, evaluation=evaluation, named=named, roles=settings.roles())
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None


def _feature(described: Any) -> Any:
    """The datasets library's description of a type."""
    if isinstance(described, dict):
        return {name: _feature(inner) for name, inner in described.items()}
    return datasets.List(_feature(described[0])) if isinstance(described, list) else datasets.Value(described)


def _rows(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    """The file's canonical rows, each with its number."""
    for number, record in enumerate(records(path), start=1):
        try:
            found = layout.canonical(record)
            _require_letters(found)
        except InputError as fault:
            raise InputError(f"{path}: row {number}: {fault}") from None
        yield found | {"row": number}


def _require_letters(value: Any) -> None:
    """Refuse halves of characters, which JSON can say and no text can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"text holds half a character, {value[error.start]!r}; remove it") from None
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _require_letters(part)


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
    tables = _with_types([part.rows for part in parts])
    if weights is None:
        rows = datasets.concatenate_datasets(tables)
    else:
        _require_weights(weights, len(parts))
        shares = [weight / math.fsum(weights) for weight in weights]
        options = {"probabilities": shares, "stopping_strategy": "all_exhausted", "seed": seed}
        rows = datasets.interleave_datasets(tables, **options)
    truncated, dropped = sum(part.truncated for part in parts), sum(part.dropped for part in parts)
    return Examples(task=parts[0].task, rows=rows, truncated=truncated, dropped=dropped)


def _with_types(tables: Sequence[Any]) -> list[Any]:
    """The tables with the column that tells two texts of a row apart, if any of them has it."""
    name = "token_type_ids"
    if not any(name in rows.column_names for rows in tables):
        return list(tables)
    whole = [
        rows if name in rows.column_names else rows.add_column(name, [[0] * len(ids) for ids in rows["input_ids"]])
        for rows in tables
    ]
    return [rows.cast_column(name, datasets.List(datasets.Value("int8"))) for rows in whole]


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
