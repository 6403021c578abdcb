"""Memory of the process: its peak, and what glibc holds back of it during a run."""

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
SPARE = 1.25  # of what a step needs may be held before it is given back


class FreedMemoryCallback(TrainerCallback):
    """Hands freed memory back to the system, where glibc keeps it.

    Batches of different lengths leave gaps of different sizes: a run of 120 steps that needs 1.5 GB held 5 GB. But the step after
    such a gift has to ask for all of it anew, and took 2.0 s where others took 1.3.
    """

    def __init__(self) -> None:
        """Prepare for a run."""
        self.needed, self.gave_back = 0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give back if more is held than a step needs, as seen in the steps after such gifts."""
        held = psutil.Process().memory_info().rss
        if self.gave_back:
            self.needed = max(self.needed, held)
        self.gave_back = held > SPARE * self.needed
        if self.gave_back:
            give_back()


def give_back() -> None:
    """Hand all freed memory back, where the C library knows how."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def restart_peak() -> None:
    """Forget the peak so far: a process may do several runs, and each has its own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if CLEAR.exists():
        # Not everywhere may a process do this; the peak is then that of all its runs.
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # of proc(5): the peak becomes what is held now


def peak_memory() -> int:
    """Bytes held at most since the last restart: by a GPU's allocator, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Sandboxes have a file without this line, macOS and Windows no file.
    known = STATUS.read_text().splitlines() if STATUS.exists() else []
    if lines := [line for line in known if line.startswith("VmHWM")]:
        return int(lines[0].split()[1]) * 1024
    # Only here, because Windows has no such module.
    import resource

    # macOS counts bytes, Linux KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
