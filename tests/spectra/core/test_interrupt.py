"""Ctrl-C: told again where Python would ignore it; everything else that Python ignores is left to whoever handles it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from spectra.core.interrupt import prepare_interrupt

INTERRUPTED = """
import os, signal, sys, time, weakref
from spectra.core.interrupt import prepare_interrupt

signal.signal(signal.SIGINT, signal.default_int_handler)
prepare_interrupt()

def come(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

class Slow:
    pass

try:
    one = Slow()
    {arrange}
    del one
    time.sleep(5)
    print("ran on")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("arrange", ["Slow.__del__ = come", "kept = weakref.ref(one, come)", "weakref.finalize(one, come)"])
def test_a_ctrl_c_that_python_ignores_is_not_lost(arrange):
    script = INTERRUPTED.replace("{arrange}", arrange)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("interrupted\n", "")


def test_what_else_is_ignored_goes_where_it_went(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    prepare_interrupt()
    first = sys.unraisablehook
    prepare_interrupt()
    assert sys.unraisablehook is first  # once is enough
    unraisable = SimpleNamespace(exc_type=ValueError)
    sys.unraisablehook(unraisable)
    assert seen == [unraisable]
