"""Dataset files as they are: the examples of a JSON, JSON-lines, CSV or Parquet file, one after the other, as mappings.

Every fault of a file is found here and named with its line. Nothing is guessed: a date stays a text, and a path is that path and
no pattern. A folder stands for the files in it, `hub:owner/name:split` for a data set on the Hugging Face Hub. Loads no torch,
and datasets only for the latter.
"""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from spectra import InputError
from spectra.core.errors import first_line
from spectra.core.files import require_regular

Record = dict[str, Any]
# Rows per byte of a Parquet file that are believed: repeated values take next to nothing, but a claim must not fill the disk.
MOST_ROWS_PER_BYTE = 1000
MOST_BYTES = 2**32  # of a list, which is read whole
PIECE = 2**20
HUB = "hub:"
ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?:([\w.\[\]%:+-]+)")
SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?=[-_.\d])", re.IGNORECASE)


def records(path: Path) -> Iterator[Record]:
    """The examples of a file, of all files of a folder, or of a data set on the Hub, in order.

    Raises:
        InputError: no such file, no known ending, or a line that is no example.
    """
    if from_hub(path):
        return _hub(path)
    if path.is_dir():
        return (record for file in _files(path) for record in records(file))
    if _kind(path) not in READERS:
        found = "".join(path.suffixes[-2:]) if path.suffix in PACKED else path.suffix
        raise InputError(
            f"{path}: cannot tell the format from {found!r}; use {', '.join(READERS)}, or text packed as {PACKED_HELP}"
        )
    require_regular(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file, no examples")
    return READERS[_kind(path)](path)


def from_hub(path: Path) -> bool:
    """Whether a path is the address of a data set on the Hub."""
    return str(path).startswith(HUB)


def content_sha256(path: Path) -> str:
    """A hash of what a file, a folder's files or a data set on the Hub hold."""
    whole = hashlib.sha256()
    if from_hub(path):
        for record in records(path):
            whole.update(json.dumps(record, sort_keys=True, default=str).encode())
    elif path.is_dir():
        for file in _files(path):
            whole.update(hashlib.sha256(file.read_bytes()).digest())
    else:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    return whole.hexdigest()


def _kind(path: Path) -> str:
    """The ending that says what is in a file."""
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def _files(folder: Path) -> list[Path]:
    """A folder's dataset files, by name.

    Raises:
        InputError: none, or files of different splits, which nobody wants to train on at once.
    """
    found = sorted(file for file in folder.iterdir() if _kind(file) in READERS and file.is_file())
    if not found:
        raise InputError(f"{folder}: no dataset file in this folder; give a file, or a folder of {', '.join(READERS)} files")
    splits = {split[1].lower() for file in found if (split := SPLIT.match(file.name))}
    if len(splits) > 1:
        raise InputError(f"{folder}: holds the splits {' and '.join(sorted(splits))}; give the files of one, or a folder of them")
    return found


def _hub(path: Path) -> Iterator[Record]:
    import datasets

    parts = ADDRESS.fullmatch(str(path).removeprefix(HUB))
    if parts is None:
        raise InputError(f"{path}: not the address of a data set; write hub:OWNER/NAME:SPLIT, or hub:OWNER/NAME/SUBSET:SPLIT")
    name, subset, split = parts.groups()
    try:
        # Only data: the library runs no code that comes with a data set.
        found = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the libraries behind it raise many classes
        raise InputError(f"{path}: cannot be loaded from the Hub: {first_line(error)}") from None
    names = {column: kind.names for column, kind in found.features.items() if isinstance(kind, datasets.ClassLabel)}
    return (_with_names(record, names) for record in found)


def _with_names(record: Mapping[str, Any], names: Mapping[str, list[str]]) -> Record:
    """A record with the names of classes in place of their numbers; -1, where a class is unknown, becomes nothing."""
    found = dict(record)
    for column, known in names.items():
        number = found.get(column)
        if isinstance(number, int):
            found[column] = known[number] if 0 <= number < len(known) else None
    return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked.

    Raises:
        InputError: a file that is not packed as its ending says, or is damaged.
    """
    unpack = PACKED.get(path.suffix)
    if unpack is None:
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with unpack(path) as stream:
            yield stream
    except InputError:
        raise
    # pyarrow's errors are OSErrors, lzma's and zlib's are not.
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise InputError(f"{path}: not a readable {path.suffix} file: {first_line(error)}") from None


def _zstd(path: Path) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


def _json_lines(path: Path) -> Iterator[Record]:
    # Bytes, split at line feeds alone: a text may hold what Unicode calls a line separator.
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark of some editors
            if line.strip():
                yield _record(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _json(path: Path) -> Iterator[Record]:
    """A list of examples; files with one on each line go by this ending as well."""
    with _opened(path) as file:
        begins = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begins not in (b"[", b""):
        yield from _json_lines(path)
        return
    content = _whole(path).removeprefix(b"\xef\xbb\xbf")
    for number, record in enumerate(_parsed(content, str(path)), start=1):
        yield _record(record, f"{path}: example {number}")


def _whole(path: Path) -> bytes:
    """What a file holds, piece by piece, because a small packed one may hold anything."""
    pieces, size = [], 0
    with _opened(path) as file:
        while piece := file.read(PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                raise InputError(f"{path}: a list of more than {MOST_BYTES:,} bytes; write one example on each line (.jsonl)")
    return b"".join(pieces)


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
    with _opened(path) as raw, io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as file:
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
            names = _class_names(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=1000):
                for record in batch.to_pylist():
                    yield _with_names(record, names)
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many unrelated classes on a bad file
        raise InputError(f"{path}: not a readable Parquet file: {first_line(error)}") from None


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its classes, as the datasets library writes them beside a table."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: list(kind["names"]) for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".zst": _zstd,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
PACKED_HELP = ", ".join(PACKED)
