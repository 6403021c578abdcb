"""Ctrl-C, so that none is lost."""

import _thread
import signal
import threading
from types import FrameType

AGAIN = 0.02  # seconds until a Ctrl-C that came inside a destructor is told again


def prepare_interrupt() -> None:
    """Let no Ctrl-C be lost: Python ignores one that it is told of inside a destructor, and would run on."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # neither ignored nor somebody else's
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            again = threading.Timer(AGAIN, _thread.interrupt_main)
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
