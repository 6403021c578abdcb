"""Site names: what a module's dotted name says about its place in the network, and which names mean the same module.

`encoder.layer.3.attention.self.query` is projection `attention.self.query` of layer 3 of the stack `encoder.layer`. A module
outside any numbered stack (an embedding, a pooler, a head) has no layer and is never adapted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spectra.values import InputError

_PLACE = re.compile(r"^(?P<stack>.*?)\.?(?:^|(?<=\.))(?P<layer>\d+)\.(?P<projection>.+)$")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where a site sits: its stack of layers, the layer's index and the projection's name within the layer."""

    stack: str
    layer: int
    projection: str


def place(name: str) -> Place | None:
    """Read a site's place off its name; None outside any numbered stack."""
    match = _PLACE.match(name)
    if match is None:
        return None
    return Place(stack=match["stack"], layer=int(match["layer"]), projection=match["projection"])


def short(projection: str) -> str:
    """A projection's name without the words that say nothing: `attention.self.query` becomes `query`."""
    parts = [part for part in projection.split(".") if part not in ("self", "dense", "self_attn", "mlp", "*")]
    return parts[-1] if parts[-1] in ("query", "key", "value") else ".".join(parts)


def order(name: str) -> tuple[object, ...]:
    """Sort key: sites outside the stacks first, then by stack, layer number and projection; `layer.10` follows `layer.9`."""
    where = place(name)
    return (0, name) if where is None else (1, where.stack, where.layer, where.projection)


def resolve(names: Iterable[str], available: Sequence[str]) -> dict[str, str]:
    """Find each name among the available ones, whatever prefix either carries.

    A checkpoint of a bare encoder says `encoder.layer.0...` where the same weights inside a classifier are
    `bert.encoder.layer.0...`. Two names mean one module if they are equal or one is the other behind a prefix that ends in a dot.

    Returns:
        name -> available name, only for the names that were found.

    Raises:
        InputError: a name fits several available ones, or two names fit the same one.
    """
    by_suffix: dict[str, list[str]] = {}
    for other in available:
        for suffix in _suffixes(other):
            by_suffix.setdefault(suffix, []).append(other)
    exact, found = set(available), dict[str, str]()
    for name in names:
        fits = [name] if name in exact else by_suffix.get(name) or [suffix for suffix in _suffixes(name) if suffix in exact]
        if len(fits) > 1:
            raise InputError(f"site {name!r} is ambiguous: it fits {fits[0]!r} and {fits[1]!r}")
        if fits:
            found[name] = fits[0]
    if len(set(found.values())) < len(found):
        taken = sorted(found.values())
        twice = next(one for one, other in pairwise(taken) if one == other)
        raise InputError(f"module {twice!r} is named twice: {', '.join(name for name in found if found[name] == twice)}")
    return found


def _suffixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
