"""One process at a time in a place: the second one is told which process is there, and a killed one holds nothing any more.

The operating system holds the lock for as long as the process lives (filelock), so none is ever stale. The lock is a hidden file
beside what it is about, because the folder itself may not be there yet.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout

from spectra.core.errors import InputError
from spectra.core.files import require_place

_PARTIAL = re.compile(r"^\..+(?<!\.journal)\.[0-9]+$")  # a journal's number is its process's among several


class HeldError(InputError):
    """Another process holds the place."""


@contextmanager
def held(path: str | Path, doing: str) -> Iterator[None]:
    """Hold a file or folder while the block runs.

    Args:
        path: what nobody else is to write meanwhile; it need not exist.
        doing: what this process does there, for the other's message, such as `trains in this folder`.

    Raises:
        HeldError: another process holds it.
        InputError: nothing can be written there.
    """
    real = require_place(path)
    file = real.with_name(f".{real.name}.lock")
    lock = FileLock(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise HeldError(f"{path}: {_holder(file)} {doing}; wait for it to end, or choose another place") from None
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    try:
        with suppress(OSError):  # a full disk: the lock holds without a name
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        _remove_partial(real)
        yield
    finally:
        # Before it is let go: whoever waits then finds that the file has gone, and makes a new one.
        with suppress(OSError):
            file.unlink()
        lock.release()


def _remove_partial(real: Path) -> None:
    """Remove what a process that was killed was writing there (`write_atomic`): nobody else is writing now."""
    inside = real.rglob(".*") if real.is_dir() else ()
    for path in [*real.parent.glob(f".{escape(real.name)}.*"), *inside]:
        if _PARTIAL.search(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def _holder(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()[:200] or "another process"
    except OSError:
        return "another process"
