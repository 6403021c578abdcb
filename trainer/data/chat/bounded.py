"""Limits on time and memory around a program that came with a model: a chat template may never end, or fill the memory."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS, BYTES = 10, 2**30
LOOKS = 20  # per second, at the memory that is held


class TakesTooLongError(Exception):
    """More time than any sensible work takes."""


@contextmanager
def bounded(seconds: float = SECONDS, size: int = BYTES) -> Iterator[None]:
    """Let the block take so many seconds and bytes at most, where the system can say so: in the main thread, on Linux.

    Raises:
        TakesTooLongError: the time is over.
        MemoryError: the memory is.
    """
    with _within_time(seconds), _within_memory(size):
        yield


@contextmanager
def _within_time(seconds: float) -> Iterator[None]:
    # Signals reach the main thread alone, and a timer that somebody else has set is left alone.
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def over(*_: Any) -> None:
        raise TakesTooLongError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@lru_cache(maxsize=1)
def _held(_moment: int) -> int:
    """Bytes of address space that this process has, looked up at every moment anew: a lookup takes as long as a template."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def _within_memory(size: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _held(int(time.monotonic() * LOOKS)) + size
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *bounds]), hard))
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
