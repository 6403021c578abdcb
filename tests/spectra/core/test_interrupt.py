"""Ctrl-C: told again where Python would ignore it, and left to whoever handles it."""

import os
import signal
import subprocess
import sys

import pytest

from spectra.core.interrupt import prepare_interrupt

INTERRUPTED = """
import os, signal, sys, time
from spectra.core.interrupt import prepare_interrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_interrupt()

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

try:
    Slow()
    time.sleep(5)
    print("ran on")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_ctrl_c_that_comes_inside_a_destructor_is_not_lost():
    found = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("interrupted\n", "")


def test_an_interrupt_that_somebody_handles_or_ignores_stays_so():
    before = signal.getsignal(signal.SIGINT)
    try:
        for theirs in (signal.SIG_IGN, lambda *_: None):
            signal.signal(signal.SIGINT, theirs)
            prepare_interrupt()
            assert signal.getsignal(signal.SIGINT) is theirs
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare_interrupt()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
