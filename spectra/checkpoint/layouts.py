"""Which matrices a stored tensor holds: one as a rule, several where a checkpoint fuses them, none where it holds something else.

Every tensor of a checkpoint becomes matrices or a reason. The rules go by name, number of dimensions and the model's
configuration:

    2-D `weight`                      one matrix; transposed in GPT-2's family, whose Conv1D keeps (in, out)
    fused q, k, v and gate, up        one matrix per part, split by the configuration's head counts (fused.py)
    3-D tensor of routed experts      one matrix per expert and part, under the names that per-expert checkpoints use
    convolution kernels               one spectrum, pooled over kernel positions as weightwatcher does
    8-bit codes with their scales     dequantised on reading
    packed 4-bit codes                refused by name: codes are no weights
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spectra.checkpoint.families import EXPERT_PROJECTIONS, family_of, per_expert_name
from spectra.checkpoint.fused import Range, fused_parts
from spectra.checkpoint.tensors import Tensor

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
CODES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8"}
# Tensors that belong to a quantised weight and mean nothing alone.
PACKED = {
    "qweight": "GPTQ or AWQ codes",
    "weight_packed": "compressed-tensors codes",
    "weight.absmax": "bitsandbytes 4-bit codes",
    "weight.quant_state.bitsandbytes__nf4": "bitsandbytes 4-bit codes",
    "weight.quant_state.bitsandbytes__fp4": "bitsandbytes 4-bit codes",
}
# DeepSeek's `weight_scale_inv` is multiplied with like the others, whatever its name says.
SCALES = ("weight_scale_inv", "weight_scale", "SCB")
BLOCK = 128  # DeepSeek's fp8 codes have one scale per block of 128 x 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One weight matrix and where its values lie."""

    name: str
    """The module, or module and part where it is fused: `h.0.attn.c_attn.q`."""
    module: str
    """The linear module that holds it, as an adapter would target it."""
    shape: tuple[int, int]
    """(d_out, d_in)."""
    tensor: Tensor
    outputs: tuple[Range, ...] = ()
    """(start, stop, step) along the stored output axis; empty for all of it."""
    transposed: bool = False
    """Stored as (d_in, d_out)."""
    expert: int | None = None
    """Index into the first axis of a 3-D tensor."""
    scale: Tensor | None = None
    """Scale that 8-bit codes are multiplied with."""
    kernel: tuple[int, ...] = ()
    """Kernel positions of a convolution; its spectrum is pooled over them."""


def expand(tensors: Sequence[Tensor], config: Mapping[str, Any]) -> tuple[list[Matrix], dict[str, str]]:
    """Turn a checkpoint's tensors into matrices.

    Args:
        tensors: all of them.
        config: the model's config.json; without it fused tensors whose split depends on head counts stay whole.

    Returns:
        The matrices, and for every tensor that is none the reason.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    matrices: list[Matrix] = []
    reasons: dict[str, str] = {}
    for tensor in tensors:
        # Packed codes first: all tensors of such a module then give the reason that helps, and not one about their dtype.
        found = _packed(tensor, by_name) or _matrices(tensor, by_name, config)
        if isinstance(found, str):
            reasons[tensor.name] = found
        else:
            matrices += found
    return matrices, reasons


def _packed(tensor: Tensor, by_name: Mapping[str, Tensor]) -> str | None:
    """The reason if a tensor is, or belongs to, packed codes or the scale of 8-bit codes."""
    module = _module(tensor.name)
    for suffix, what in PACKED.items():
        if f"{module}.{suffix}" in by_name:
            return f"{what}, packed: dequantise the checkpoint to analyse {module}"
    # gpt-oss appends to the parameter's name, `gate_up_proj_blocks`, so there is no module to look beside.
    if tensor.name.endswith(("_blocks", "_scales")) and tensor.dtype == "U8":
        return "MXFP4 codes, packed: dequantise the checkpoint to analyse them"
    if tensor.name.endswith(SCALES) and f"{module}.weight" in by_name:
        return f"scale of {module}.weight"
    return None


def _module(name: str) -> str:
    """The module that a tensor belongs to: the name before `weight`, `qweight`, `weight.absmax` and the like."""
    for suffix in (*PACKED, *SCALES, "qzeros", "scales", "g_idx", "weight_shape", "weight.quant_map", "weight.nested_absmax"):
        if name.endswith("." + suffix):
            return name.removesuffix("." + suffix)
    return name.removesuffix(".weight") if name.endswith(".weight") else name.rpartition(".")[0]


def _matrices(tensor: Tensor, by_name: Mapping[str, Tensor], config: Mapping[str, Any]) -> list[Matrix] | str:
    # 8-bit codes are weights only together with their scale; any other dtype holds indices, masks or bytes.
    scale = _scale(tensor, by_name)
    if tensor.dtype not in FLOATS and scale is None:
        what = f"{CODES[tensor.dtype]} codes without a scale" if tensor.dtype in CODES else f"dtype {tensor.dtype}, no weights"
        return f"{what}: not analysed"
    if scale is not None and not _fits(scale.shape, tensor.shape):
        shapes = f"8-bit codes of shape {list(tensor.shape)} with a scale of shape {list(scale.shape)}"
        return f"{shapes}, an unknown layout: dequantise the checkpoint to analyse them"
    if 0 in tensor.shape:
        return f"empty, shape {list(tensor.shape)}"
    # Before the test of the name, because fused experts are bare parameters and have no `.weight` at the end.
    if len(tensor.shape) == 3 and (experts := _experts(tensor, config)):
        return experts
    if not tensor.name.endswith((".weight", "in_proj_weight")) or len(tensor.shape) < 2:
        return f"{len(tensor.shape)}-D, no weight matrix"
    if len(tensor.shape) > 2:
        # A weight of more than two dimensions that holds no experts is a convolution: (out, in, kernel positions ...).
        module, (d_out, d_in, *_) = _module(tensor.name), tensor.shape
        kernel = Matrix(name=module, module=module, shape=(d_out, d_in), tensor=tensor)
        return [replace(kernel, kernel=tensor.shape[2:])]
    return _plain(tensor, scale, config)


def _scale(tensor: Tensor, by_name: Mapping[str, Tensor]) -> Tensor | None:
    if tensor.dtype not in CODES or not tensor.name.endswith(".weight"):
        return None
    module = tensor.name.removesuffix(".weight")
    return next((by_name[f"{module}.{name}"] for name in SCALES if f"{module}.{name}" in by_name), None)


def _fits(scale: tuple[int, ...], codes: tuple[int, ...]) -> bool:
    """Whether codes are a matrix, and their scale is one number, one per row, or one per block."""
    if len(codes) != 2:
        return False
    blocks = tuple(-(-size // BLOCK) for size in codes)
    return math.prod(scale) == 1 or scale in (codes[:1], (codes[0], 1), blocks)


def _plain(tensor: Tensor, scale: Tensor | None, config: Mapping[str, Any]) -> list[Matrix]:
    """A 2-D weight: one matrix, or the parts that are fused in it."""
    module = tensor.name.removesuffix(".weight")
    leaf = module.rpartition(".")[2]
    # transformers turns a Conv1D around before it makes int8 codes of it.
    transposed = leaf in family_of(config).conv1d and not (scale and scale.name.endswith(".SCB"))
    d_out, d_in = tensor.shape[::-1] if transposed else tensor.shape
    whole = Matrix(name=module, module=module, shape=(d_out, d_in), tensor=tensor, transposed=transposed, scale=scale)
    parts = fused_parts(leaf, d_out, d_in, config)
    if leaf == "in_proj_weight":  # torch's MultiheadAttention has no module for it
        whole = replace(whole, module=module.rpartition(".")[0] + ".in_proj", name=module.rpartition(".")[0] + ".in_proj")
    return [
        replace(whole, name=f"{whole.name}.{part}", shape=(_length(ranges), d_in), outputs=tuple(ranges))
        for part, ranges in parts.items()
    ] or [whole]  # no fused module, or one whose size the configuration does not explain


def _length(ranges: Iterable[Range]) -> int:
    return sum(len(range(*part)) for part in ranges)


def _experts(tensor: Tensor, config: Mapping[str, Any]) -> list[Matrix]:
    """Every expert's matrices in a 3-D tensor; none if it is no stack of experts."""
    path, _, leaf = tensor.name.removesuffix(".weight").rpartition(".")
    if not path.endswith("experts") or leaf not in ("gate_up_proj", *EXPERT_PROJECTIONS):
        return []
    family = family_of(config)
    experts, d_out, d_in = tensor.shape
    if family.experts_transposed:
        d_out, d_in = d_in, d_out
    if leaf == "gate_up_proj" and d_out % 2:
        return []
    parts = {leaf: [(0, d_out, 1)]}
    if leaf == "gate_up_proj" and family.experts_interleaved:
        parts = {"gate_proj": [(0, d_out, 2)], "up_proj": [(1, d_out, 2)]}
    elif leaf == "gate_up_proj":
        parts = {"gate_proj": [(0, d_out // 2, 1)], "up_proj": [(d_out // 2, d_out, 1)]}
    stored = Matrix(name=path, module=path, shape=(d_out, d_in), tensor=tensor, transposed=family.experts_transposed)
    # Per-expert names, so that reports of fused and of per-expert checkpoints join, and experts of one projection are one type.
    found = []
    for expert in range(experts):
        for part, ranges in parts.items():
            name = per_expert_name(path, expert, part, family)
            shape = (_length(ranges), d_in)
            found.append(replace(stored, name=name, module=name, shape=shape, outputs=tuple(ranges), expert=expert))
    return found
