"""Limits around a program that came with a model."""

import itertools
import signal
import threading
import time

import pytest

from trainer.data.chat.bounded import TakesTooLongError, bounded


def test_what_never_ends_is_ended():
    began = time.monotonic()
    with pytest.raises(TakesTooLongError), bounded(seconds=0.2):
        any(number < 0 for number in itertools.count())
    assert time.monotonic() - began < 5
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_fills_the_memory_is_refused_and_the_limit_lifted_again():
    with pytest.raises(MemoryError), bounded(size=2**20):
        bytearray(2**28)
    assert len(bytearray(2**26)) == 2**26


def test_what_ends_is_left_alone():
    with bounded():
        found = sum(range(1000))
    assert found == 499_500


def test_other_threads_have_no_limit_on_time():
    done = []

    def work():
        with bounded(seconds=0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
