"""Files: read with a clear refusal, written whole or not at all, and never one over another."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from spectra.core.errors import InputError


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: it is missing, unreadable, or something else than a file, such as a pipe, which would be waited for.
    """
    try:
        return require_regular(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def require_regular(path: str | Path) -> Path:
    """Refuse what is no regular file; a link to one is.

    Raises:
        InputError: nothing there, a folder, a pipe or a device, or a name that no file can have.
    """
    path = Path(path)
    try:
        path.stat()
        regular = path.is_file()
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'no file can have this name'}") from None
    if not regular:
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'not a regular file'}")
    return path


def read_json(path: str | Path, *, finite: bool = False) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        finite: refuse what standard JSON does not have, NaN and infinity, and numbers beyond what a float or 64 bits hold.

    Raises:
        InputError: the file is missing, unreadable or not JSON (with the line).
    """
    try:
        text = read_bytes(path).decode("utf-8")
        hooks: dict[str, Any] = {"parse_constant": _refused, "parse_float": _float, "parse_int": _int} if finite else {}
        found = json.loads(text, **hooks)
        if finite and "\\ud" in text.lower():  # halves of characters, which JSON can say and no text can hold
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a text holds half a character, {error.object[error.start]!r}; remove it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError(f"{path}: brackets are nested too deeply to be read") from None
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except ValueError:  # Python reads no whole number of more than 4300 digits
        raise InputError(f"{path}: holds a whole number of thousands of digits, which cannot be read") from None


def _refused(text: str) -> Any:
    raise InputError(f"number {text} is not JSON; what is unknown is written as null")


def _float(text: str) -> float:
    number = float(text)
    return _refused(_short(text)) if number in (float("inf"), float("-inf")) else number


def _int(text: str) -> int:
    # A sign and 19 digits hold every whole number of 64 bits; more is no size, count or seed.
    if len(text) > 20:
        raise InputError(f"number {_short(text)} is too large")
    return int(text)


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:12]}... of {len(text)} digits"


def require_writable(path: str | Path) -> Path:
    """Refuse, before any work is done, a place that no file can be put in; a link is followed.

    Returns:
        The real path.

    Raises:
        InputError: a folder, a device, or a place below a file.
    """
    real = require_place(path)
    try:
        if real.exists() and not real.is_file():
            raise InputError(f"{path}: cannot write: {'a folder' if real.is_dir() else 'not a regular file'}")
    except OSError as error:  # a name that is too long
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    return real


def require_place(path: str | Path) -> Path:
    """Refuse a place that neither a file nor a folder can be put in; a link is followed.

    Returns:
        The real path.

    Raises:
        InputError: no name, a link to itself, or a place below a file or below a folder that nothing can be written to.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{str(path)!r} is no file name")
    try:
        real = path.resolve()
        # Missing folders will be made, so it is the lowest one that exists which has to allow it.
        above = next(folder for folder in real.parents if folder.exists())
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself is a RuntimeError, a zero byte a ValueError
        raise InputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from None
    if not above.is_dir():
        raise InputError(f"{path}: cannot write: {above} is a file")
    try:
        # Tried and not asked: whoever is root may write anywhere, says `os.access`, and yet /proc takes no file.
        TemporaryFile(dir=above).close()
    except OSError as error:
        raise InputError(f"{path}: cannot write: {above} is not writable ({error.strerror})") from None
    return real


def require_apart(outputs: Mapping[str, Path | None], inputs: Iterable[str | Path]) -> None:
    """Refuse, before any work is done, outputs that cannot be written, or that would replace an input or each other.

    Args:
        outputs: name of a setting -> file to write; None is not written.
        inputs: files that are read.

    Raises:
        InputError: the place.
    """
    read = {Path(os.path.realpath(path)): path for path in inputs}
    taken: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        real = require_writable(path)
        same = next((one for one in read if real == one or (real.exists() and one.exists() and real.samefile(one))), None)
        if same is not None:
            raise InputError(f"`{name}` {path}: would replace {read[same]}, which is read; choose another file")
        if real in taken:
            raise InputError(f"`{name}` {path}: is also the file of `{taken[real]}`; choose another one")
        taken[real] = name


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it into place, so that no reader ever sees half a file.

    Raises:
        InputError: the folder cannot be made or the file cannot be written (no permission, disk full).
    """
    path = require_writable(path)
    # In the same folder, because renaming is atomic only within a file system; named by process, so that two do not share it.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file under the final name
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        with suppress(OSError):  # it has its new name, or was never made
            beside.unlink()


def cache_folder() -> Path:
    """Where results may be kept that can be made again: `LORAPLAN_CACHE`, or loraplan's part of the user's cache folder."""
    if chosen := os.environ.get("LORAPLAN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loraplan"
