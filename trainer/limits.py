"""What a model, its tokenizer or this machine cannot do, refused in one line before any work is done."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
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
    limit = positions(checkpoint)
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
    limit = positions(checkpoint)
    if limit is not None and prompt + generate > limit:
        raise InputError(
            f"`generate` {generate} after a prompt of {prompt} tokens is more than the {limit} positions of {checkpoint.name}"
        )


def positions(checkpoint: Checkpoint) -> int | None:
    """Tokens that a model has positions for; None where its configuration does not say."""
    # GPT-2 calls it n_positions.
    limit = checkpoint.config.get("max_position_embeddings") or checkpoint.config.get("n_positions")
    if not isinstance(limit, int):
        return None
    if family_of(checkpoint.config).positions_after_padding:
        limit -= 1 + checkpoint.config.get("pad_token_id", 1)
    return limit


def length_in_memory(checkpoint: Checkpoint, rows: int, width: int, *, recompute: bool) -> int:
    """Tokens per row for which one training pass fits into the memory of this machine's device.

    What a pass keeps per token is estimated from the model's shape: per layer ten vectors of the hidden size and four of the
    inner size, or one vector where activations are recomputed, and per learned token its logits twice in single precision.

    Args:
        checkpoint: the model.
        rows: of one pass.
        width: bytes of a number, as the model computes.
        recompute: whether activations are recomputed.
    """
    config = checkpoint.config
    hidden, layers, inner, words = (_size(config, *names) for names in SHAPE)
    inner = inner or 4 * hidden
    layer = width * (10 * hidden + 4 * inner)
    per_token = layers * width * hidden + layer if recompute else layers * layer
    per_token += 8 * words
    weights = width * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors)
    room = FREE_SHARE * device_memory() - weights
    return max(0, int(room / max(per_token, 1) / rows))


SHAPE = (
    ("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"), ("intermediate_size", "n_inner"), ("vocab_size",),
)  # fmt: skip
FREE_SHARE = 0.7  # of a device's memory, for the model and a pass
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def _size(config: Mapping[str, Any], *names: str) -> int:
    inner = config.get("text_config")
    texts = inner if isinstance(inner, dict) else {}
    found = next((value for name in names for value in (config.get(name), texts.get(name)) if isinstance(value, int)), 0)
    return max(int(found), 0)


def device_memory() -> int:
    """Bytes of the device that trains: a GPU's, else what this process may have of the machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [psutil.virtual_memory().total]
    for path in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(path.read_text()))
    return int(min(limits))


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
