"""Dataset files as they are: the examples of a JSON, JSON-lines, CSV or Parquet file, one after the other, as mappings.

Every fault of a file is found here and named with its line. Nothing is guessed: a date stays a text, and a path is that path, no
pattern and no address. Loads neither torch nor datasets.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spectra import InputError
from spectra.core.errors import first_line
from spectra.core.files import read_bytes, require_regular

Record = dict[str, Any]
# Rows per byte of a Parquet file that are believed: repeated values take next to nothing, but a claim must not fill the disk.
MOST_ROWS_PER_BYTE = 1000


def records(path: Path) -> Iterator[Record]:
    """The examples of a file, in order.

    Raises:
        InputError: no such file, no known ending, or a line that is no example.
    """
    if path.suffix not in READERS:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use {', '.join(READERS)}")
    require_regular(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file, no examples")
    return READERS[path.suffix](path)


def _json_lines(path: Path) -> Iterator[Record]:
    # Bytes, split at line feeds alone: a text may hold what Unicode calls a line separator.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
            if line.strip():
                yield _record(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _json(path: Path) -> Iterator[Record]:
    """A list of examples; files with one on each line go by this ending as well."""
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if not content.lstrip().startswith(b"["):
        yield from _json_lines(path)
        return
    for number, record in enumerate(_parsed(content, str(path)), start=1):
        yield _record(record, f"{path}: example {number}")


def _parsed(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refused)
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except RecursionError:
        raise InputError(f"{place}: brackets are nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise InputError(f"{place}: not JSON: {error.msg} at character {error.colno}{line}") from None
    except ValueError as error:  # NaN, or a whole number of more than 4300 digits
        raise InputError(f"{place}: not JSON: {first_line(error)}") from None


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _record(value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected an object, one example, found {type(value).__name__}")
    return value


def _csv(path: Path) -> Iterator[Record]:
    """Every field as it is written: an answer of 42 and a label of NA are texts."""
    # Python's default of 128 KiB is less than a long text; this is the most that a 32-bit C long takes, as on Windows.
    csv.field_size_limit(2**31 - 1)
    # Spreadsheets put a byte order mark in front, which would become part of the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise InputError(f"{path}:1: column {twice[0]!r} is there twice; rename or remove one")
            for fields in lines:
                if fields and len(fields) != len(header):
                    counts = f"{len(fields)} fields under {len(header)} columns"
                    raise InputError(f"{path}:{lines.line_num}: {counts}; put fields that hold a comma in quotes")
                if fields:
                    yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}:{lines.line_num}: not CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 text after line {lines.line_num}: {error.reason}; save the file as UTF-8"
            ) from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            if rows > MOST_ROWS_PER_BYTE * size:
                raise InputError(f"{path}: claims {rows:,} rows in {size:,} bytes")
            for batch in file.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many unrelated classes on a bad file
        raise InputError(f"{path}: not a readable Parquet file: {first_line(error)}") from None


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
