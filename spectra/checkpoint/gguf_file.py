"""GGUF files: llama.cpp's format, quantised or not, seen as the same model in Hugging Face's layout.

The gguf package reads and dequantises. Which tensor is which parameter, and how llama.cpp turned its values around when it wrote
them, transformers knows, because it loads such files too. Both are slow to import and are, only for a file of this kind.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.families import family_of, per_expert_name
from spectra.checkpoint.tensors import Tensor
from spectra.core.errors import InputError, first_line

SUFFIX = ".gguf"
# Stacked experts in a live model, and what llama.cpp calls the parts.
_EXPERTS = re.compile(r"^(?P<path>.*\.(?P<layer>\d+)\..*experts)\.(?P<part>gate_up_proj|gate_proj|up_proj|down_proj)$")
_PARTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
_FUSED = {"gate_up_proj": ("gate_proj", "up_proj")}


def config_of(file: Path) -> Mapping[str, Any]:
    """What config.json would say of the model.

    Raises:
        InputError: an unreadable file, or an architecture that transformers does not know.
    """
    return _config(file, file.stat().st_mtime_ns)


def headers_of(file: Path) -> Iterator[Tensor]:
    """Every parameter of the model under the name and shape that it has in Hugging Face's layout, experts one by one.

    Raises:
        InputError: an unreadable file, an unknown architecture, or a kind of quantisation that gguf cannot undo.
    """
    config = config_of(file)
    stored = {str(tensor.name): tensor for tensor in _reader(file, file.stat().st_mtime_ns).tensors}
    for tensor in stored.values():
        _require_dequantisable(file, tensor)
    for name, (ours, experts) in _names(file, config).items():
        if name not in stored:  # a tied tensor is stored once
            continue
        shape = tuple(int(size) for size in reversed(stored[name].shape))
        for expert in range(shape[0]) if experts else (None,):
            named = ours if expert is None else _of_expert(ours, expert, config)
            mine = shape if expert is None else shape[1:]
            turned = mine[::-1] if expert is None and _is_turned(named, config) else mine
            # Of single precision, which is what dequantising gives.
            yield Tensor(name=named, shape=turned, dtype="F32", file=file, stored=name, expert=expert)


def values_of(tensor: Tensor) -> Any:
    """A parameter's values as a torch tensor in single precision."""
    import gguf
    import torch
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    found = _tensor(tensor)
    data = found.data if tensor.expert is None else found.data[tensor.expert]
    values = gguf.dequantize(data, found.tensor_type)
    if tensor.expert is None:
        # As transformers undoes llama.cpp's permutations, so that rows are the model's own.
        config = dict(config_of(tensor.file))
        made = TENSOR_PROCESSORS.get(architecture(tensor.file), TensorProcessor)(config=config)
        values = made.process(weights=values, name=tensor.stored).weights
    return torch.from_numpy(np.array(values)).reshape(tensor.shape)  # a copy: the file is mapped read-only


def raw_rows(tensor: Tensor) -> bytes:
    """The bytes of a tensor's first and middle row as they are stored."""
    data: NDArray[Any] = _tensor(tensor).data
    data = data if tensor.expert is None else data[tensor.expert]
    return data[:1].tobytes() + data[len(data) // 2 : len(data) // 2 + 1].tobytes()


def architecture(file: Path) -> str:
    """llama.cpp's name for the model's architecture."""
    return str(_reader(file, file.stat().st_mtime_ns).fields["general.architecture"].contents())


def _of_expert(name: str, expert: int, config: Mapping[str, Any]) -> str:
    path, _, part = name.rpartition(".")
    return per_expert_name(path, expert, part, family_of(config)) + ".weight"


def _is_turned(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the layout keeps (in, out), GPT-2's Conv1D, where llama.cpp has (out, in)."""
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and module.rpartition(".")[2] in family_of(config).conv1d


def _tensor(tensor: Tensor) -> Any:
    reader = _reader(tensor.file, tensor.file.stat().st_mtime_ns)
    return next(found for found in reader.tensors if found.name == tensor.stored)


def _require_dequantisable(file: Path, tensor: Any) -> None:
    import gguf

    try:
        gguf.dequantize(tensor.data[:1], tensor.tensor_type)
    except NotImplementedError:
        kind = getattr(tensor.tensor_type, "name", tensor.tensor_type)
        raise InputError(
            f"{file}: tensor {tensor.name!r} is quantised as {kind}, which gguf cannot undo; use another quantisation"
        ) from None


# The time of the last change is a key, so that a file that was replaced is read anew.
@lru_cache(maxsize=4)
def _reader(file: Path, _changed: int) -> Any:
    import gguf

    class Bounded(gguf.GGUFReader):
        """Reads nothing beyond the file's end, where the package finds empty values: as many as an array claims to have."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it ends before what it claims to hold")
            return super()._get(offset, dtype, count, override_order)

    try:
        reader = Bounded(file)
        reader.fields["general.architecture"].contents()
    except Exception as error:  # numpy and the package raise many unrelated classes on a bad file
        raise InputError(f"{file}: not a readable GGUF file: {_reason(error)}") from None
    return reader


@lru_cache(maxsize=4)
def _config(file: Path, changed: int) -> Mapping[str, Any]:
    _reader(file, changed)  # whose refusals say more
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except Exception as error:  # as above
        raise InputError(f"{file}: transformers cannot read its configuration: {_reason(error)}") from None
    found: dict[str, Any] = config.to_dict()
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if "GGMLQuantizationType" in str(error):
        return f"a tensor is quantised in a way that the gguf package does not know: {first_line(error)}"
    return first_line(error) or type(error).__name__


def _names(file: Path, config: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """llama.cpp's name of a tensor -> the parameter's, and whether it stacks experts, whose index is then still missing."""
    import gguf

    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}.get(architecture(file))
    if known is None:
        raise InputError(f"{file}: architecture {architecture(file)!r} is unknown to the gguf package; a newer one may know it")
    translate = gguf.get_tensor_name_map(known, int(config["num_hidden_layers"]))
    found: dict[str, tuple[str, bool]] = {}
    for name in _parameters(file):
        if match := _EXPERTS.match(name):
            for part in _FUSED.get(match["part"], (match["part"],)):
                found[f"blk.{match['layer']}.{_PARTS[part]}.weight"] = (f"{match['path']}.{part}", True)
            continue
        module, _, leaf = name.rpartition(".")
        if (theirs := translate.get_name(module)) is not None:
            found.setdefault(f"{theirs}.{leaf}", (name, False))
    return found


def _parameters(file: Path) -> list[str]:
    """Names of a model's parameters, from a model without values."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**config_of(file))
    causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    with torch.device("meta"):
        model = (transformers.AutoModelForCausalLM if causal else transformers.AutoModel).from_config(
            config, trust_remote_code=False
        )
    return list(model.state_dict())
