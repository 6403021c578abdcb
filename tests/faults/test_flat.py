"""Long work stays as large as it was: ten thousand steps, ten thousand matrices. `-s` shows the times, of which nothing is asked."""

import statistics
import time

import psutil
import pytest
import torch
from safetensors.torch import save_file

import spectra
from planner import AllocationSettings, allocate
from spectra import open_checkpoint
from trainer import TrainSettings, train

pytestmark = [pytest.mark.slow, pytest.mark.training]

COUNT, EVERY = 10_000, 250


class Watch:
    """Progress that notes memory, open files and the time since the last note."""

    def __init__(self):
        self.notes, self.before = [], time.perf_counter()

    def __call__(self, done, total=None, note=""):
        if done % EVERY == 0:
            process, now = psutil.Process(), time.perf_counter()
            self.notes.append((process.memory_info().rss, process.num_fds(), (now - self.before) / EVERY))
            self.before = now

    def assert_flat(self, kept=0):
        """The last quarter beside the second, when everything is warm; `kept` bytes of each piece of work may stay."""
        quarter = len(self.notes) // 4
        early, late = self.notes[quarter : 2 * quarter], self.notes[-quarter:]
        medians = [[statistics.median(part) for part in zip(*notes, strict=True)] for notes in (early, late)]
        memory, handles, seconds = zip(*medians, strict=True)
        print(
            f"memory {memory[0] / 2**20:.1f} -> {memory[1] / 2**20:.1f} MiB, handles {handles[0]:.0f} -> {handles[1]:.0f}, "
            f"{1e3 * seconds[0]:.2f} -> {1e3 * seconds[1]:.2f} ms each"
        )
        assert memory[1] < 1.02 * memory[0] + kept * COUNT / 2
        assert handles[1] == handles[0]


def test_ten_thousand_steps(tiny_llama, sentences, tmp_path):
    plan = allocate(
        "3000", AllocationSettings(strategy="uniform", expert_rank=1, max_experts=3), model=open_checkpoint(tiny_llama)
    )
    settings = TrainSettings(max_steps=COUNT, batch_size=2, max_length=16, precision="fp32")
    watch = Watch()
    train(plan, tiny_llama, sentences, tmp_path / "run", settings, progress=watch)
    watch.assert_flat()


def test_ten_thousand_matrices(tmp_path):
    draws = torch.Generator().manual_seed(0)
    matrices = {f"layers.{number}.q.weight": torch.randn(24, 16, generator=draws) for number in range(COUNT)}
    save_file(matrices, tmp_path / "model.safetensors")
    watch = Watch()
    report = spectra.analyze(tmp_path, journal=tmp_path / ".journal", progress=watch)
    assert len(report.sites) == COUNT
    watch.assert_flat(kept=8192)  # its entry in the report
