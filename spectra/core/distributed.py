"""Sharing matrices among the processes of `torchrun`; alone, it does nothing and loads no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from spectra.core.errors import InputError

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among its peers."""

    rank: int
    world: int
    device: str
    owned: bool = False
    """Whether the process group was made here, and so is to be closed here; a caller's own group stays open."""

    @classmethod
    def here(cls, device: str) -> "Ranks":
        """Read torchrun's environment and join its process group.

        Raises:
            InputError: a CUDA device was asked for and there is none.
        """
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if device.startswith("cuda"):
            device = _cuda(device)
        owned = False
        if world > 1:
            import torch.distributed

            if owned := not torch.distributed.is_initialized():
                torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(rank=rank, world=world, device=device, owned=owned)

    def share(self, items: Sequence[T]) -> list[T]:
        """Every world-th item, starting with this rank's: neighbours in a network differ in size, and so do not pile up."""
        return list(items[self.rank :: self.world])

    def gather(self, found: dict[str, V]) -> dict[str, V]:
        """Everybody's findings, on every rank; a process group that was made for this is closed afterwards."""
        if self.world == 1:
            return found
        import torch.distributed

        parts: list[dict[str, V]] = [{}] * self.world
        torch.distributed.all_gather_object(parts, found)
        if self.owned:
            # A rank that leaves while another still reads would break the other's connection.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return {name: value for part in parts for name, value in part.items()}


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def _cuda(device: str) -> str:
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device {device!r}: this torch finds no CUDA device; leave --device out to use the CPU")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    torch.cuda.set_device(device)
    return device
