"""What a model, its tokenizer or this machine cannot do, refused in one line before any work is done."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from spectra import Checkpoint, InputError
from spectra.checkpoint.families import family_of
from spectra.core.distributed import require_device as require_kind
from spectra.core.errors import first_line


class DivergedError(InputError):
    """A loss or weights that are not finite."""


def require_length(checkpoint: Checkpoint, max_length: int) -> None:
    """Refuse texts longer than the model has positions for.

    Raises:
        InputError: the limit.
    """
    limit = _positions(checkpoint)
    if limit is not None and max_length > limit:
        raise InputError(f"`max_length` {max_length} is more than the {limit} positions of {checkpoint.name}")


def require_room(checkpoint: Checkpoint, prompt: int, generate: int) -> None:
    """Refuse to generate beyond a model's positions.

    Args:
        checkpoint: the model.
        prompt: tokens of the longest prompt.
        generate: how many are to follow.

    Raises:
        InputError: the limit.
    """
    limit = _positions(checkpoint)
    if limit is not None and prompt + generate > limit:
        raise InputError(
            f"`generate` {generate} after a prompt of {prompt} tokens is more than the {limit} positions of {checkpoint.name}"
        )


def _positions(checkpoint: Checkpoint) -> int | None:
    # GPT-2 calls it n_positions.
    limit = checkpoint.config.get("max_position_embeddings") or checkpoint.config.get("n_positions")
    if not isinstance(limit, int):
        return None
    if family_of(checkpoint.config).positions_after_padding:
        limit -= 1 + checkpoint.config.get("pad_token_id", 1)
    return limit


def require_vocabulary(checkpoint: Checkpoint, tokenizer: Any, rows: Iterable[Sequence[int]], file: Path) -> None:
    """Refuse token ids that the model has no embedding for.

    Args:
        checkpoint: the model.
        tokenizer: what made the ids, and pads.
        rows: token ids.
        file: where the texts came from.

    Raises:
        InputError: the first such token.
    """
    size = checkpoint.config.get("vocab_size")
    if not isinstance(size, int):
        return
    largest = max((max(row) for row in rows if len(row)), default=0)
    for token, what in ((largest, f"{file}: the tokenizer makes"), (tokenizer.pad_token_id or 0, "the tokenizer pads with")):
        if token >= size:
            shown = tokenizer.convert_ids_to_tokens(token)
            raise InputError(
                f"{what} token {token} ({shown!r}), but {checkpoint.name} has embeddings for {size};"
                " use the model's own tokenizer"
            )


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        InputError: what torch says about it.
    """
    require_kind(device)
    try:
        torch.empty(0, device=device)
    # A torch built without CUDA raises AssertionError, one that finds no GPU RuntimeError.
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r}: {first_line(error)}") from None
