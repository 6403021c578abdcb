"""Which modules of a model someone asks for: by PEFT's names, by the words attention and mlp, or by patterns."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from spectra.checkpoint.names import live_name, parse_name, projection_type
from spectra.core.errors import InputError

ATTENTION = ("attn", "attention")


def is_attention(name: str) -> bool:
    """Whether a projection inside a layer belongs to attention; every other one counts as the MLP's."""
    where = parse_name(name)
    return any(word in (where.projection if where else name).lower() for word in ATTENTION)


def chosen_modules(names: Sequence[str], asked: str) -> list[bool]:
    """For every module whether it is asked for.

    Args:
        names: modules, by their names in the checkpoint.
        asked: separated by commas: a name as PEFT's target_modules takes it (`q_proj`, `mlp.down_proj`), `attention`, `mlp`,
            or a pattern of the whole name (`*.layers.1?.*`).

    Raises:
        InputError: a part that no module answers to.
    """
    found = [False] * len(names)
    for wanted in asked.split(","):
        fits = [_fits(name, wanted.strip()) for name in names]
        if not any(fits):
            known = ", ".join(dict.fromkeys(projection_type(name).rpartition(".")[2] for name in names))
            raise InputError(
                f"`modules` {wanted.strip()!r}: no such module; the model has {known}, and the groups attention and mlp"
            )
        found = [before or fit for before, fit in zip(found, fits, strict=True)]
    return found


def _fits(name: str, wanted: str) -> bool:
    if wanted in ("attention", "mlp"):
        # Embeddings and heads lie in no layer and belong to neither.
        return parse_name(name) is not None and is_attention(name) == (wanted == "attention")
    if any(letter in wanted for letter in "*?["):
        return fnmatchcase(name, wanted)
    # Mixtral's checkpoints call up_proj w3, and people may write either.
    return bool(wanted) and any(one == wanted or one.endswith("." + wanted) for one in (name, live_name(name)))
