"""Site names: what a module's dotted name says about its place in the network, and which names mean the same module.

`encoder.layer.3.attention.self.query` is projection `attention.self.query` of layer 3 of the stack `encoder.layer`. A module
outside any numbered stack (an embedding, a pooler, a head) has no layer and is never adapted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spectra.checkpoint.families import FAMILIES, NO_PROJECTION
from spectra.core.errors import InputError

# Of nine digits at most, and no others than 0 to 9: longer "numbers" and other scripts' are letters of a name.
_NUMBERS = re.compile(r"(?<![0-9])([0-9]{1,9})(?![0-9])")
# Look-around, so that a substitution replaces the number and leaves the dots.
_EXPERT = re.compile(r"(?<=experts\.)([0-9]{1,9})(?=\.)")
# The shortest stack wins, so the first number is the layer; a later one, such as an expert's, is part of the projection.
_PLACE = re.compile(r"^(?P<stack>.*?)\.?(?:^|(?<=\.))(?P<layer>[0-9]{1,9})\.(?P<projection>.+)$", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ParsedName:
    """Where a site sits: its stack of layers, the layer's index and the projection's name within the layer."""

    stack: str
    layer: int
    projection: str


def parse_name(name: str) -> ParsedName | None:
    """Read a site's place off its name; None outside any numbered stack."""
    match = _PLACE.match(name)
    if match is None:
        return None
    return ParsedName(stack=match["stack"], layer=int(match["layer"]), projection=match["projection"])


def expert_index(name: str) -> int | None:
    """Which routed expert of the base model a matrix belongs to; None if to none."""
    match = _EXPERT.search(name)
    return int(match[1]) if match else None


def projection_type(name: str) -> str:
    """A projection's name without layer and routed expert: `mlp.experts.*.up_proj`. The whole name outside any stack."""
    where = parse_name(name)
    return _EXPERT.sub("*", where.projection if where else name)


def live_name(name: str) -> str:
    """A module's name as live models have it, where the checkpoints of its family call it differently.

    The family is not known here, so every family's names are tried; they are odd enough not to be anything else's.
    """
    for family in FAMILIES.values():
        if family.expert_names and expert_index(name) is not None:
            stem, _, last = name.rpartition(".")
            live = {theirs: ours for ours, theirs in family.expert_names.items()}
            name = f"{stem}.{live.get(last, last)}"
        if family.experts_block != "mlp":
            name = name.replace(f"{family.experts_block}.", "mlp.")
    return name


def short_name(projection: str) -> str:
    """A projection's name without the words that say nothing: `attention.self.query` becomes `query`."""
    parts = [part for part in projection.split(".") if part not in ("self", "dense", "self_attn", "mlp", "*")]
    return parts[-1] if parts[-1] in ("query", "key", "value") else ".".join(parts)


def sort_key(name: str) -> tuple[object, ...]:
    """Sort key: sites outside the stacks first, then by stack, layer and projection; 10 follows 9, of layers and experts."""
    where = parse_name(name)
    return (0, name) if where is None else (1, where.stack, where.layer, *_natural(where.projection))


def _natural(projection: str) -> list[object]:
    # Splitting at a captured number gives text, number, text, ...: keys never compare a text with a number.
    return [int(part) if position % 2 else part for position, part in enumerate(_NUMBERS.split(projection))]


def resolve(names: Iterable[str], available: Sequence[str]) -> dict[str, str]:
    """Find each name among the available ones, whatever prefix either carries.

    A checkpoint of a bare encoder says `encoder.layer.0...` where the same weights inside a classifier are
    `bert.encoder.layer.0...`. Two names mean one module if they are equal or one is the other behind a prefix that ends in a dot,
    both as live models have them.

    Returns:
        name -> available name, only for the names that were found.

    Raises:
        InputError: a name fits several available ones, or two names fit the same one.
    """
    live = {live_name(other): other for other in available}
    # Every suffix is looked up once and not searched for: a large model has tens of thousands of names on both sides.
    by_suffix: dict[str, list[str]] = {}
    for other in live:
        for suffix in _suffixes(other):
            by_suffix.setdefault(suffix, []).append(other)
    found: dict[str, str] = {}
    for name in names:
        wanted = live_name(name)
        # An exact name wins, even if others end in it; then available names behind a prefix; then what is left of the wanted name
        # without its own prefix.
        fits = [wanted] if wanted in live else by_suffix.get(wanted) or [part for part in _suffixes(wanted) if part in live]
        if len(fits) > 1:
            raise InputError(f"site {name!r} is ambiguous: it fits {live[fits[0]]!r} and {live[fits[1]]!r}")
        if fits:
            found[name] = live[fits[0]]
    if len(set(found.values())) < len(found):
        taken = sorted(found.values())
        twice = next(one for one, other in pairwise(taken) if one == other)
        raise InputError(f"module {twice!r} is named twice: {', '.join(name for name in found if found[name] == twice)}")
    return found


def _suffixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def is_adaptable(name: str) -> bool:
    """Whether a matrix is a projection inside a numbered layer."""
    return parse_name(name) is not None and not NO_PROJECTION.search(name)
