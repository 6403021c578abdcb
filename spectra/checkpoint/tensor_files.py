"""Files of tensors: their headers, and slices of tensors, from safetensors, GGUF or torch pickles without executing code."""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spectra.checkpoint.gguf_file import SUFFIX as GGUF
from spectra.checkpoint.gguf_file import headers_of, raw_rows, values_of
from spectra.checkpoint.tensors import Tensor
from spectra.core.errors import InputError, first_line

# torch's names of the dtypes that a pickle can hold, in safetensors' spelling.
TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def headers(file: Path) -> Iterator[tuple[Tensor, str | None]]:
    """Every tensor of a file, and the name of an earlier one whose storage it shares, if any.

    Raises:
        InputError: the file cannot be read.
    """
    if file.suffix == GGUF:
        yield from ((tensor, None) for tensor in headers_of(file))
        return
    if file.suffix == ".safetensors":
        with opened(file, "np") as stored:
            for name in stored.keys():  # noqa: SIM118 - a safetensors file is no mapping
                entry = stored.get_slice(name)
                yield Tensor(name=name, shape=tuple(entry.get_shape()), dtype=str(entry.get_dtype()), file=file), None
        return
    # Tied tensors of a pickle start at one address; shape and stride tell them from parts of a common storage. A safetensors file
    # shares no storage, so it has none.
    owners: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in _unpickled(file).items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        owner = owners.setdefault((tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())), name)
        shape = tuple(tensor.shape)
        yield Tensor(name=name, shape=shape, dtype=TORCH_DTYPES.get(dtype, dtype), file=file), owner if owner != name else None


@contextmanager
def opened(file: Path, framework: str) -> Iterator[Any]:
    """A safetensors file, for as long as the block runs: afterwards none of its pages stay mapped."""
    try:
        with safe_open(file, framework=framework) as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


@contextmanager
def sliced(tensor: Tensor) -> Iterator[Any]:
    """Something that gives torch tensors when indexed with slices, without loading the rest.

    Raises:
        InputError: the file ends early or cannot be read.
    """
    if tensor.file.suffix == ".safetensors":
        with opened(tensor.file, "pt") as stored:
            yield stored.get_slice(tensor.name)
    elif tensor.file.suffix == GGUF:
        yield values_of(tensor)
    else:
        yield _unpickled(tensor.file)[tensor.name]


def sample(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """The bytes of the first and the middle row of every tensor: enough to tell two trainings of one architecture apart.

    Each file is closed after each tensor, because the system maps megabytes around every row that is touched.
    """
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        if tensor.file.suffix == GGUF:
            yield raw_rows(tensor)
            continue
        with sliced(tensor) as stored:
            yield _two_rows(stored, tensor)


def _two_rows(stored: Any, tensor: Tensor) -> bytes:
    if not tensor.shape or 0 in tensor.shape:
        return b""
    if tensor.dtype.startswith(("F4", "F6", "F8_E8M0")):
        raise InputError(f"{tensor.file}: tensor {tensor.name!r} has dtype {tensor.dtype}, which torch cannot read row by row")
    import torch

    middle = tensor.shape[0] // 2
    rows = torch.cat([stored[:1], stored[middle : middle + 1]]).contiguous()
    # The bytes as they are stored, because numpy has no bfloat16.
    return rows.view(torch.uint8).numpy().tobytes()


def _unpickled(file: Path) -> Mapping[str, Any]:
    import torch  # only old checkpoints pay for it

    _require_uncompressed(file)
    try:
        # weights_only: tensors and containers, never code. mmap: values stay on disk until sliced.
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and pickle raise many unrelated classes on a bad file
        raise InputError(f"{file}: not a readable torch checkpoint: {first_line(error)}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{file}: not a state dict: it holds something other than named tensors")
    for name, tensor in found.items():
        _require_values(file, name, tensor)
    return found


def _require_uncompressed(file: Path) -> None:
    """Refuse an archive that is larger inside than outside: torch compresses nothing, and a few bytes could fill the memory."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{file}: not a readable torch checkpoint: {first_line(error)}") from None
    if inside > (outside := file.stat().st_size):
        raise InputError(
            f"{file}: its entries would take {inside:,} bytes, and the file has {outside:,}; torch compresses nothing"
        )


def _require_values(file: Path, name: object, tensor: Any) -> None:
    """Refuse a tensor whose values are not all in the file, one by one."""
    import torch

    if not isinstance(name, str):
        raise InputError(f"{file}: not a state dict: a tensor is named by {name!r}, which is no text")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise InputError(f"{file}: tensor {name!r} is sparse, quantised by torch or without values; save it as a plain tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{file}: tensor {name!r} repeats its values to shape {list(tensor.shape)}; save it as a plain tensor")
