"""Tokenised examples on disk: written as they come, so that memory stays flat, and found again by what they were made of."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from spectra import InputError
from spectra.core.errors import first_line
from spectra.core.files import cache_folder
from trainer.data.fitting import Encoded

BATCH = 1000
MOST_KEPT = 4 * 2**30  # bytes of tokens that the cache may hold
LEAST_KEPT = 2**20  # bytes of tokens from which on a set is kept: smaller ones are made in no time
COUNTS = b"counts"


class Stored(NamedTuple):
    """Examples, and what became of others."""

    rows: Any
    """A datasets.Dataset with `input_ids`, `labels` and `attention_mask`."""
    made: int
    truncated: int
    dropped: int


@cache
def folder() -> "tempfile.TemporaryDirectory[str]":
    """Where this process keeps what it has read; it goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="loraplan-", ignore_cleanup_errors=True)


def new_folder() -> Path:
    """A new folder in it, one for each reading: the datasets library's own cache knows a file by its name, and grows."""
    return Path(tempfile.mkdtemp(dir=folder().name))


def stored(key: str, encoded: Callable[[], Iterable[Encoded]]) -> Stored:
    """Examples as a dataset: those that were kept under a key, or new ones.

    Args:
        key: everything that the examples depend on; nothing for examples that are not kept.
        encoded: makes them.

    Raises:
        InputError: the disk is full.
    """
    place = cache_folder() / "tokens" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow" if key else None
    if place is not None and (found := _read(place)):
        with suppress(OSError):
            os.utime(place)  # the least recently used go first
        return found
    path = new_folder() / "tokens.arrow"
    try:
        _write(path, encoded())
    except OSError as error:
        raise InputError(f"{path.parent}: tokens cannot be kept there: {first_line(error)}") from None
    if place is not None and path.stat().st_size >= LEAST_KEPT:
        _keep(path, place)
    found = _read(path)
    assert found is not None
    return found


def _write(path: Path, encoded: Iterable[Encoded]) -> None:
    schema = pa.schema(
        [("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("attention_mask", pa.list_(pa.int8()))]
    )
    made = truncated = dropped = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        coming = iter(encoded)
        while batch := list(islice(coming, BATCH)):
            made, truncated = made + len(batch), truncated + sum(example.cut for example in batch)
            # Without the first label, which is shifted away. A mean over no label at all would be NaN.
            kept = [example for example in batch if any(label != -100 for label in example.labels[1:])]
            dropped += len(batch) - len(kept)
            if kept:
                writer.write_batch(_batch(kept, schema))
    counts = {"made": made, "truncated": truncated, "dropped": dropped}
    path.with_suffix(".json").write_text(json.dumps(counts), encoding="utf-8")


def _batch(kept: list[Encoded], schema: pa.Schema) -> pa.RecordBatch:
    offsets = pa.array(np.cumsum([0, *(len(example.ids) for example in kept)]), pa.int32())
    ids, labels = (
        np.concatenate([np.asarray(part, np.int32) for part in parts])
        for parts in ([example.ids for example in kept], [example.labels for example in kept])
    )
    columns = (pa.array(ids), pa.array(labels), pa.array(np.ones(len(ids), np.int8)))
    return pa.record_batch([pa.ListArray.from_arrays(offsets, column) for column in columns], schema=schema)


def _read(path: Path) -> Stored | None:
    try:
        counts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if counts["made"] == counts["dropped"]:
            return Stored(datasets.Dataset.from_dict({"input_ids": [], "labels": [], "attention_mask": []}), **counts)
        return Stored(datasets.Dataset.from_file(str(path)), **counts)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid):
        return None


def _keep(path: Path, place: Path) -> None:
    """Copy examples into the cache; one that cannot be written costs time and nothing else."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        _make_room(place.parent, path.stat().st_size)
        # The counts come last: examples without them are taken for none.
        for suffix in (".arrow", ".json"):
            beside = place.with_suffix(f"{suffix}.{os.getpid()}")
            try:
                shutil.copyfile(path.with_suffix(suffix), beside)
                beside.replace(place.with_suffix(suffix))
            finally:
                beside.unlink(missing_ok=True)


def _make_room(folder: Path, size: int) -> None:
    files = sorted(folder.glob("*.arrow"), key=lambda file: file.stat().st_mtime)
    held = sum(file.stat().st_size for file in files)
    for file in files:
        if held + size <= MOST_KEPT:
            return
        held -= file.stat().st_size
        file.with_suffix(".json").unlink(missing_ok=True)
        file.unlink(missing_ok=True)


def on_disk(rows: Iterable[Mapping[str, Any]], features: Any) -> Any:
    """Rows as a datasets.Dataset that is not in memory.

    Args:
        rows: each with all columns.
        features: the library's description of their types.

    Raises:
        OSError: the disk is full.
    """
    path = new_folder() / "rows.arrow"
    schema = features.arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        coming = iter(rows)
        while batch := list(islice(coming, BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return datasets.Dataset.from_file(str(path))


def batches_of(rows: Any) -> Iterator[list[dict[str, Any]]]:
    """The rows of a dataset, a thousand at a time."""
    for batch in rows.iter(BATCH):
        yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
