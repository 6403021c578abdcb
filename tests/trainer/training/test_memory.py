"""Freed memory goes back when more is held than a step needs, and not at every step."""

from types import SimpleNamespace

import pytest

from trainer.training import memory
from trainer.training.memory import FreedMemoryCallback, give_back, peak_memory, restart_peak


def test_memory_is_measured_in_bytes():
    if memory.torch.cuda.is_available():
        memory.torch.zeros(2**20, device="cuda")  # of a GPU, what torch has allocated there
    assert 2**20 < peak_memory() < 2**44


@pytest.mark.skipif(memory.torch.cuda.is_available() or not memory.CLEAR.exists(), reason="the peak of a process on Linux")
def test_every_run_has_a_peak_of_its_own():
    large = bytearray(200 * 2**20)
    large[::4096] = b"x" * len(large[::4096])
    before = peak_memory()
    del large
    give_back()
    restart_peak()
    assert peak_memory() < before - 100 * 2**20


@pytest.mark.skipif(memory.torch.cuda.is_available(), reason="the peak of a process")
def test_without_a_line_for_the_peak_it_is_that_of_the_whole_process(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t12 kB\n")
    for path in (tmp_path / "status", tmp_path / "none"):
        monkeypatch.setattr(memory, "STATUS", path)
        assert 2**20 < peak_memory() < 2**44


def test_giving_back_holds_no_more_than_before():
    held = memory.psutil.Process().memory_info().rss
    give_back()
    assert memory.psutil.Process().memory_info().rss <= held + 2**20


@pytest.mark.parametrize(
    ("held", "gifts"),
    [
        ([10, 10, 10, 10], [0]),  # only to learn what a step needs
        ([10, 10, 12, 13, 10], [0, 3]),
        ([10, 10, 20, 20, 20, 26], [0, 2, 5]),  # a longer batch needs more
    ],
)
def test_what_is_held_beyond_need_is_given_back(held, gifts, monkeypatch):
    given = []
    callback = FreedMemoryCallback()
    for step, size in enumerate(held):
        process = SimpleNamespace(memory_info=lambda size=size: SimpleNamespace(rss=size))
        monkeypatch.setattr(memory.psutil, "Process", lambda process=process: process)
        monkeypatch.setattr(memory, "give_back", lambda step=step: given.append(step))
        callback.on_step_end(None, None, None)
    assert given == gifts
