"""One stored tensor, whatever the format of its file."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One stored tensor: its name, shape, safetensors dtype (`F32`, `BF16`, ...) and the file it lies in."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    stored: str = ""
    """Its name inside the file, where that is another one (GGUF)."""
    expert: int | None = None
    """Which part of a stack of experts it is, where the file has them in one tensor (GGUF)."""
