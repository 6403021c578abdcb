"""Checkpoints: find the tensors of a Hugging Face model folder and stream them, a block of rows at a time.

Only headers are read until a tensor's values are asked for, so looking at a checkpoint of any size is instant and needs no torch.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spectra.sites import order
from spectra.values import InputError, read_json

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# What a hub download needs: weights, configuration and tokenizer, and not the same weights in other formats.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One stored tensor: its name, shape, safetensors dtype (`F32`, `BF16`, ...) and the file it lies in."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The tensors of one model folder, in network order."""

    name: str
    """What the user called it: the folder's name or the hub id."""
    folder: Path
    tensors: tuple[Tensor, ...]

    @property
    def source(self) -> str:
        """What finds this checkpoint again from anywhere: the absolute folder, or the hub id."""
        return self.name if "/" in self.name else str(self.folder.absolute())

    @property
    def parameters(self) -> int:
        """Number of stored floating-point values; a tied tensor is stored, and counted, once."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors if tensor.dtype in FLOATS)

    @property
    def fingerprint(self) -> str:
        """Identifies the architecture: a hash of all names and shapes. Copies in another dtype or sharding share it."""
        text = "\n".join(sorted(f"{tensor.name} {list(tensor.shape)}" for tensor in self.tensors))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]

    def matrices(self) -> Mapping[str, tuple[int, int]]:
        """Module name -> (d_out, d_in) of every two-dimensional floating-point `weight`, in network order."""
        return {
            tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
            for tensor in self.tensors
            if not why_not_a_matrix(tensor)
        }


def why_not_a_matrix(tensor: Tensor) -> str | None:
    """The reason why a tensor has no spectrum to analyse, or None for a matrix."""
    if tensor.dtype not in FLOATS:
        return f"dtype {tensor.dtype} holds no floating-point weights"
    if len(tensor.shape) != 2:
        return f"{len(tensor.shape)}-D, not a matrix"
    if min(tensor.shape) == 0:
        return f"empty, shape {list(tensor.shape)}"
    return None


def locate(model: str | Path) -> Path:
    """The folder of a model: a local one, or a hub id's snapshot (from the cache, else downloaded).

    Raises:
        InputError: neither a folder nor a hub id that can be had.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{model}: a file; give the model's folder")
    if not _HUB_ID.fullmatch(str(model)):
        raise InputError(f"{model}: no such folder")
    return _snapshot(str(model))


def _snapshot(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # only a hub id pays for the import

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many unrelated classes, none of them ours
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{hub_id}: no such folder, and not to be had from the hub: {reason}") from None


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Read the headers of every weight file of a model.

    Raises:
        InputError: no such model, no safetensors weights, a missing shard, a corrupt file, or a tensor stored twice.
    """
    folder = locate(model)
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder):
        for tensor in _headers(file):
            if tensor.name in tensors:
                raise InputError(f"{file}: tensor {tensor.name!r} is also in {tensors[tensor.name].file.name}")
            tensors[tensor.name] = tensor
    name = folder.absolute().name if Path(model).is_dir() else str(model)
    return Checkpoint(name=name, folder=folder, tensors=tuple(tensors[name] for name in sorted(tensors, key=order)))


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        return _indexed_files(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(folder.glob("*.bin"))
        hint = f"; {pickles[0].name} is a pickle, convert it with save_pretrained" if pickles else ""
        raise InputError(f"{folder}: no weights: no *.safetensors file in this folder{hint}")
    return files


def _indexed_files(folder: Path) -> list[Path]:
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / INDEX}: no weight_map in the index")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: missing, though {INDEX} names it")
    return files


def _headers(file: Path) -> Iterator[Tensor]:
    with _opened(file, "np") as stored:
        for name in stored.keys():  # noqa: SIM118 - a safetensors file is no mapping
            entry = stored.get_slice(name)
            yield Tensor(name=name, shape=tuple(entry.get_shape()), dtype=str(entry.get_dtype()), file=file)


@contextmanager
def _opened(file: Path, framework: str) -> Iterator[Any]:
    try:
        with safe_open(file, framework=framework) as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


def blocks(tensor: Tensor, block: int = 2048) -> Iterator[NDArray[np.float64]]:
    """Stream a matrix in float64 slabs along its longer side.

    Args:
        tensor: a matrix of shape (d_out, d_in).
        block: slab thickness in rows (or columns, if d_in > d_out); bounds the memory beside the Gram matrix.

    Yields:
        Arrays of shape (at most `block`, min(d_out, d_in)): slabs of W, transposed where W is wide.

    Raises:
        InputError: the file ends early or cannot be read.
    """
    rows, cols = tensor.shape
    with _opened(tensor.file, "pt") as stored:
        entry = stored.get_slice(tensor.name)
        for start in range(0, max(rows, cols), block):
            slab = entry[start : start + block] if rows >= cols else entry[:, start : start + block].T
            yield slab.double().numpy()
