"""Memory of the process: its peak, and what glibc holds back of it during a run."""

import ctypes
import sys
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

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


def peak_memory() -> int:
    """Bytes held at most: by a GPU's allocator, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    # Only here, because Windows has no such module.
    import resource

    # macOS counts bytes, Linux KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
