"""Checkpoints: find the tensors of a Hugging Face model folder or a GGUF file, and the matrices they hold.

Only headers are read until a matrix's values are asked for, so looking at a checkpoint of any size is instant and needs no torch.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spectra.checkpoint.gguf_file import SUFFIX as GGUF
from spectra.checkpoint.gguf_file import config_of
from spectra.checkpoint.layouts import CODES, FLOATS, Matrix, expand
from spectra.checkpoint.names import sort_key
from spectra.checkpoint.tensor_files import headers, sample
from spectra.checkpoint.tensors import Tensor
from spectra.core.errors import InputError, first_line
from spectra.core.files import read_json, require_regular

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PICKLE_INDEX, PICKLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
SUFFIXES = {INDEX: ".safetensors", PICKLE_INDEX: ".bin"}  # of the files that an index names
# What a hub download needs: weights, configuration and tokenizer, and not the same weights in other formats.
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]
# What a model's folder holds of the model itself; people keep reports beside it.
MODEL_FILES = (
    "*.safetensors", "*.bin", "*.gguf", "*.py", "*.model", "*.txt", "*.jinja", "*config.json", "*index.json", "tokenizer*.json",
    "vocab*.json", "special_tokens_map.json", "added_tokens.json", "preprocessor*.json",
)  # fmt: skip
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILE = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[\w./-]+\.gguf)")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


# No slots: cached properties keep their values in the instance's __dict__.
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of one model folder, in network order."""

    name: str
    """Name that the user gave: that of the folder or file, or the Hub id."""
    folder: Path
    tensors: tuple[Tensor, ...]
    aliases: Mapping[str, str]
    """Tensors that share another one's storage, and which."""
    config: Mapping[str, Any]
    """The model's config.json, or what it would say of a GGUF file; empty if there is none."""
    gguf: Path | None = None
    """The file, where the model is a GGUF file."""

    @property
    def location(self) -> Path:
        """What holds weights and tokenizer: the folder, or the GGUF file."""
        return self.gguf or self.folder

    @property
    def source(self) -> str:
        """Path or id that finds this checkpoint from anywhere: the absolute path, or the Hub id."""
        return self.name if "/" in self.name else str(self.location.absolute())

    @property
    def parameters(self) -> int:
        """Number of stored weights; a tied tensor is stored, and counted, once."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors if tensor.dtype in FLOATS or tensor.dtype in CODES)

    @property
    def fingerprint(self) -> str:
        """Identifies the architecture: a hash of all names and shapes. Copies in another dtype or sharding share it."""
        text = "\n".join(sorted(f"{tensor.name} {list(tensor.shape)}" for tensor in self.tensors))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:32]

    @cached_property
    def weights(self) -> str:
        """Identifies the values, unlike the fingerprint: a hash of two rows of every tensor. Reads little, but loads torch."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for part in sample(self.tensors):
            digest.update(part)
        return "sha256:" + digest.hexdigest()[:32]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return tuple(sorted({tensor.file for tensor in self.tensors}))

    @cached_property
    def digest(self) -> str:
        """Identifies every byte of the files of weights. Reads all of them."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for file in self.files:
            try:
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
            except OSError as error:
                raise InputError(f"{file}: {error.strerror}") from None
        return "sha256:" + digest.hexdigest()[:32]

    @cached_property
    def contents(self) -> tuple[tuple[Matrix, ...], Mapping[str, str]]:
        """Every matrix in network order, and for every tensor that holds none the reason."""
        matrices, reasons = expand(self.tensors, self.config)
        shared = {name: f"tied: shares the storage of {owner}" for name, owner in self.aliases.items()}
        return tuple(sorted(matrices, key=lambda matrix: sort_key(matrix.name))), dict(sorted((reasons | shared).items()))

    def modules(self) -> Mapping[str, tuple[int, int]]:
        """Linear module -> (d_out, d_in), in network order; fused parts count together, convolutions not at all."""
        found: dict[str, tuple[int, int]] = {}
        for matrix in self.contents[0]:
            if not matrix.kernel:
                outputs = found.get(matrix.module, (0, 0))[0] + matrix.shape[0]
                found[matrix.module] = (outputs, matrix.shape[1])
        return found


def find_model(model: str | Path) -> Path:
    """The folder or GGUF file of a model: a local one, or what a hub id names (from the cache, else downloaded).

    Raises:
        InputError: neither a folder, a GGUF file, nor a hub id that can be had.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.exists():
        return _gguf(path)
    # Nothing of that name on disk. Only what looks like a Hub id is looked for in the network; a mistyped path is not.
    if match := _HUB_FILE.fullmatch(str(model)):
        return _gguf(_hub_file(match["repository"], match["file"]))
    if not _HUB_ID.fullmatch(str(model)):
        raise InputError(f"{model}: no such folder")
    return _snapshot(str(model))


def files_of(model: str | Path) -> list[Path]:
    """Every file of a local model, which nothing may be written over; none for a Hub id."""
    path = Path(model)
    if path.is_dir():
        return [file for pattern in MODEL_FILES for file in path.glob(pattern)]
    return [path] if path.exists() else []


def _gguf(file: Path) -> Path:
    require_regular(file)
    if file.suffix != GGUF:
        raise InputError(f"{file}: a file; give the model's folder, or a {GGUF} file")
    if _PART.search(file.name):
        raise InputError(f"{file}: one part of a model in several files; join them with llama.cpp's llama-gguf-split")
    return file


def _hub_file(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download  # only a hub id pays for the import

    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # the hub client raises many unrelated classes, none of them ours
        raise InputError(f"{repository}/{name}: no such file, and the Hub download failed: {first_line(error)}") from None


def _snapshot(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download  # only a hub id pays for the import

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub client raises many unrelated classes, none of them ours
        raise InputError(f"{hub_id}: no such folder, and the Hub download failed: {first_line(error)}") from None


def open_checkpoint(model: str | Path) -> Checkpoint:
    """Read the headers of every weight file of a model.

    Raises:
        InputError: no such model, no weights, a missing shard, a corrupt file, or a tensor stored twice.
    """
    location = find_model(model)
    files = [location] if location.suffix == GGUF and location.is_file() else _weight_files(location)
    gguf = files[0] if files[0].suffix == GGUF else None
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for file in files:
        for tensor, owner in headers(file):
            if tensor.name in tensors:
                raise InputError(f"{file}: tensor {tensor.name!r} is also in {tensors[tensor.name].file.name}")
            if owner:
                aliases[tensor.name] = owner
            else:
                tensors[tensor.name] = tensor
    name = location.absolute().name.removesuffix(GGUF) if Path(model).exists() else str(model)
    ordered = tuple(tensors[name] for name in sorted(tensors, key=sort_key))
    folder = gguf.parent if gguf else location
    config = _of_text(config_of(gguf) if gguf else _config(folder))
    return Checkpoint(name=name, folder=folder, tensors=ordered, aliases=aliases, config=config, gguf=gguf)


def _config(folder: Path) -> Mapping[str, Any]:
    if not _is_there(folder / "config.json"):
        return {}
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'}: expected an object, found {type(config).__name__}")
    return config


def _of_text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the text stack, which is all of it for a plain language model."""
    text = config.get("text_config")
    # The text stack's keys win, `model_type` included: hence a family `llama4_text` beside `llama4`.
    return {**config, **text} if isinstance(text, dict) else config


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors if there are any, else torch pickles, else a GGUF file."""
    # One format only, because a folder may hold the same weights in several. The order is that of transformers, which loads them
    # for training: a single file goes before an index.
    for single, index, pattern in ((SINGLE, INDEX, "*.safetensors"), (PICKLE, PICKLE_INDEX, "pytorch_model*.bin")):
        if _is_there(folder / single):
            return [require_regular(folder / single)]
        if _is_there(folder / index):
            return _indexed_files(folder, index)
        if files := sorted(folder.glob(pattern)):
            return [require_regular(file) for file in files]
    if len(files := sorted(folder.glob(f"*{GGUF}"))) == 1:
        return [_gguf(files[0])]
    if files:
        raise InputError(f"{folder}: {len(files)} GGUF files in this folder; give one of them, such as {files[0]}")
    raise InputError(f"{folder}: no weights: neither *.safetensors nor pytorch_model*.bin nor *{GGUF} in this folder")


def _is_there(path: Path) -> bool:
    """Whether a folder has an entry of this name, whatever it is: what is no file is refused and not passed over."""
    return path.exists() or path.is_symlink()


def _indexed_files(folder: Path, name: str) -> list[Path]:
    index = read_json(folder / name)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / name}: no weight_map in the index")
    ending = SUFFIXES[name]
    for tensor, shard in weight_map.items():
        # A name alone: with a folder in it an index could have any file of the machine read.
        if not isinstance(shard, str) or not shard.endswith(ending) or Path(shard).name != shard or "\0" in shard:
            shown = f"tensor {tensor!r} is said to be in {_short(shard)}"
            raise InputError(f"{folder / name}: {shown}; a shard is a {ending} file beside the index")
    files = [folder / shard for shard in sorted(set(weight_map.values()))]
    for file in files:
        if not _is_there(file):
            raise InputError(f"{file}: missing, though {name} names it")
        require_regular(file)
        _require_inside(file, folder, name)
    return files


def _require_inside(file: Path, folder: Path, index: str) -> None:
    """Refuse a shard that is a link out of the folder, but for the links that the Hub's cache is made of."""
    real, folder = file.resolve(), folder.resolve()
    blobs = folder.parent.parent / "blobs"  # beside snapshots/REVISION
    if real.parent != folder and not (folder.parent.name == "snapshots" and real.parent == blobs):
        raise InputError(f"{file}: named by {index}, and a link to {real}, outside the folder; copy the file")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
