"""Files: read with a clear refusal, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from spectra.core.errors import InputError


def read_json(path: str | Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: the file is missing, unreadable or not JSON (with the line).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def require_writable(path: str | Path) -> Path:
    """Refuse, before any work is done, a place that no file can be put in; a link is followed.

    Returns:
        The real path.

    Raises:
        InputError: a folder, a device, or a place below a file.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{str(path)!r} is no file name")
    real = path.resolve()
    if real.exists() and not real.is_file():
        raise InputError(f"{path}: cannot write: {'a folder' if real.is_dir() else 'not a regular file'}")
    # Missing folders will be made, so it is the lowest one that exists which has to allow it.
    above = next(folder for folder in real.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{path}: cannot write: {above} is {'not writable' if above.is_dir() else 'a file'}")
    return real


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
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file under the final name
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        if beside.exists():
            beside.unlink()


def cache_folder() -> Path:
    """Where results may be kept that can be made again: `LORAPLAN_CACHE`, or loraplan's part of the user's cache folder."""
    if chosen := os.environ.get("LORAPLAN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loraplan"
