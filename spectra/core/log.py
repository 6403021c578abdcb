"""The library's voice: what happens is logged under `loraplan`, and whoever runs the library decides where that goes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("loraplan")


@contextmanager
def warnings_only() -> Iterator[None]:
    """Inside the block only warnings are logged: for short runs inside a longer one, whose every step nobody asked about."""
    before = LOG.level
    LOG.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOG.setLevel(before)
