"""Ctrl-C, so that none is lost."""

import _thread
import sys
import threading
from typing import Any

AGAIN = 0.02  # seconds until a Ctrl-C that Python has ignored is told again


def prepare_interrupt() -> None:
    """Tell a Ctrl-C again that Python ignores, because it came inside a destructor or a callback, and would run on after."""
    before = sys.unraisablehook
    if getattr(before, "of_loraplan", False):
        return

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        again = threading.Timer(AGAIN, _thread.interrupt_main)
        again.daemon = True
        again.start()

    hook.of_loraplan = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
