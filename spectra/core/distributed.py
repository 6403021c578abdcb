"""Sharing work among the processes of `torchrun`; alone, a process does everything itself and loads no torch."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from spectra.core.errors import InputError

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among its peers."""

    index: int
    count: int
    device: str
    owned: bool = False
    """Whether the process group was made here, and so is to be closed here; a caller's own group stays open."""

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Read torchrun's environment and join its process group.

        Args:
            device: `cpu`, or a torch device such as `cuda`, of which each process takes its own.

        Raises:
            InputError: a CUDA device was asked for and there is none.
        """
        require_device(device)
        index, count = _of_torchrun("RANK", 0), _of_torchrun("WORLD_SIZE", 1)
        if device.startswith("cuda"):
            device = _cuda(device)
        owned = False
        if count > 1:
            import torch.distributed

            if owned := not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(index=index, count=count, device=device, owned=owned)

    def share(self, items: Sequence[T]) -> list[T]:
        """Every count-th item, starting with this process's: neighbours in a network differ in size, and so do not pile up."""
        return list(items[self.index :: self.count])

    def gather(self, found: dict[str, V]) -> dict[str, V]:
        """Everything that all processes found, in every process; a process group that was made for this is closed afterwards."""
        if self.count == 1:
            return found
        import torch.distributed

        parts: list[dict[str, V]] = [{}] * self.count
        torch.distributed.all_gather_object(parts, found)
        if self.owned:
            # A process that leaves while another still reads would break the other's connection.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return {name: value for part in parts for name, value in part.items()}


def require_device(device: str) -> None:
    """Refuse a device that is not `cpu` or a CUDA device.

    Raises:
        InputError: the device.
    """
    if not _DEVICE.fullmatch(device):
        raise InputError(f"device {device!r}: choose cpu, cuda, or one of several GPUs such as cuda:1")


def _of_torchrun(name: str, alone: int) -> int:
    """A number that torchrun sets for each of its processes."""
    value = os.environ.get(name, str(alone))
    if not value.isdecimal():
        raise InputError(f"environment variable {name} is {value!r}, not a number; torchrun sets it, unset it otherwise")
    return int(value)


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def decided_by_main(value: T) -> T:
    """The main process's value in every process; the process's own where it is alone."""
    import torch.distributed

    if not torch.distributed.is_initialized():
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def wait_for_all() -> None:
    """Return when every process has come here; alone, at once."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _cuda(device: str) -> str:
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this torch finds no CUDA device; use device 'cpu'")
    if device != "cuda" and int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    # nccl moves objects through the current device, which would be the first GPU in every process.
    torch.cuda.set_device(device)
    return device
