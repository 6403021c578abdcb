"""Which examples are scored together: those of like length, as many as the memory takes."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

ON_CPU, ON_GPU = 2048, 65_536  # tokens beyond which a larger batch is no faster
SHARE = 4  # a batch may take this part of the memory that is free


def by_length(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Positions of the longest examples first, each list of so many that padded to its longest it has at most `tokens` tokens.

    An example that is longer than that stands alone. With the longest first, memory peaks at the start.
    """
    ranking = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(ranking):
        size = max(1, tokens // max(1, lengths[ranking[start]]))
        yield ranking[start : start + size]
        start += size


def tokens_at_a_time(model: Any) -> int:
    """How many tokens, padding included, a forward pass without gradients should hold."""
    text = model.config.get_text_config()
    inner = max(size for name in ("intermediate_size", "hidden_size") if isinstance(size := getattr(text, name, 0), int))
    # One layer at a time holds the inner states of its feed-forward block several times over; more comes from nowhere.
    per_token = 8 * max(1, inner) * 4
    device = model.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    return max(1, min(ON_GPU if device.type == "cuda" else ON_CPU, free // SHARE // per_token))


def _free_memory() -> int:
    names = os.sysconf_names if hasattr(os, "sysconf") else {}
    # Windows and macOS do not say; a machine that trains has this much.
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_AVPHYS_PAGES" in names else 2**30
