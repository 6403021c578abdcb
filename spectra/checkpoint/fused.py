"""Fused projections: which of a module's outputs are queries, keys and values, or gate and up.

The configuration's head counts decide, never that a number divides by three: with grouped or shared keys the parts are unequal.
Where the counts do not explain a module's size it stays whole, because no split is better than a wrong one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.checkpoint.families import family_of

Range = tuple[int, int, int]  # start, stop, step, as range() takes them
Parts = dict[str, list[Range]]

# transformers' names of what a configuration says, and those of models that bring their own code.
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads")
HEAD_SIZE = ("head_dim", "kv_channels")
WIDTH = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of queries, heads of keys (and as many of values), and outputs of one head."""

    queries: int
    keys: int
    size: int


def stacked(heads: Heads) -> Parts:
    """All queries, all keys, all values."""
    sizes = {"q": heads.queries * heads.size, "k": heads.keys * heads.size, "v": heads.keys * heads.size}
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = [(start, start + size, 1)]
        start += size
    return parts


def grouped(heads: Heads) -> Parts:
    """Every head of keys in turn: the queries that share it, the key, its value."""
    queries = heads.size * (heads.queries // heads.keys)
    starts = [group * (queries + 2 * heads.size) for group in range(heads.keys)]
    ends = {"q": (0, queries), "k": (queries, queries + heads.size), "v": (queries + heads.size, queries + 2 * heads.size)}
    return {name: [(start + first, start + last, 1) for start in starts] for name, (first, last) in ends.items()}


def codegen(heads: Heads) -> Parts:
    """CodeGen's four blocks, of the four machines that it was trained on: queries, values, keys of a quarter of the heads."""
    part, odd = divmod(heads.queries * heads.size, 4)
    if odd or heads.keys != heads.queries:
        return {}
    starts = [block * 3 * part for block in range(4)]
    return {name: [(s + n * part, s + (n + 1) * part, 1) for s in starts] for name, n in (("q", 0), ("k", 2), ("v", 1))}


LAYOUTS: dict[str, Callable[[Heads], Parts]] = {"stacked": stacked, "grouped": grouped, "codegen": codegen}
# The last part of a module's name -> its layout, where the family does not say otherwise.
QKV = {
    "c_attn": "stacked",
    "Wqkv": "stacked",
    "W_pack": "stacked",
    "qkv_proj": "stacked",
    "qkv": "stacked",
    "query_key_value": "grouped",
    "wqkv": "grouped",
}


def is_fused(leaf: str) -> bool:
    """Whether a module of this name holds queries, keys and values."""
    return leaf in QKV


def fused_parts(leaf: str, d_out: int, d_in: int, config: Mapping[str, Any]) -> Parts:
    """How a fused module's outputs divide into parts; empty if it is not fused or the configuration does not explain its size.

    Args:
        leaf: the last part of the module's name.
        d_out: its number of outputs.
        d_in: its number of inputs.
        config: the model's config.json.
    """
    if leaf == "gate_up_proj" and d_out % 2 == 0:
        return {"gate": [(0, d_out // 2, 1)], "up": [(d_out // 2, d_out, 1)]}
    # torch's own attention has a key and a value for every query, and towers of images are made like it, of whatever heads.
    if leaf == "in_proj_weight" or (leaf == "qkv" and d_out == 3 * d_in):
        return stacked(Heads(queries=d_out // 3, keys=d_out // 3, size=1)) if d_out % 3 == 0 else {}
    if leaf not in QKV or (heads := heads_of(config, d_out, d_in)) is None:
        return {}
    layout = family_of(config).qkv_layout
    return LAYOUTS[(layout(config) if layout else None) or QKV[leaf]](heads)


def heads_of(config: Mapping[str, Any], d_out: int, d_in: int) -> Heads | None:
    """The heads of an attention whose fused projection has this shape; None if the configuration describes another."""
    nested = config.get("attn_config")  # of DBRX and MPT
    known = {**(nested if isinstance(nested, Mapping) else {}), **config}
    queries, width = _first(known, HEADS), _first(known, WIDTH)
    if queries is None or width not in (None, d_in):
        return None
    special = family_of(config).key_value_heads
    # Where nothing is said of groups, every head has a key and a value of its own.
    keys = (special(known) if special else None) or _first(known, KEY_HEADS) or queries
    if not isinstance(keys, int) or queries % keys:
        return None
    size = _first(known, HEAD_SIZE)
    if size is None:
        # Without a width the module's own size says how large a head is, if it divides.
        size = width // queries if width is not None and width % queries == 0 else d_out // (queries + 2 * keys)
    fits = size > 0 and (queries + 2 * keys) * size == d_out
    return Heads(queries=queries, keys=keys, size=size) if fits else None


def _first(config: Mapping[str, Any], names: Iterable[str]) -> int | None:
    """The first of some settings that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)
