"""The one form of progress: how far long work is."""

from typing import Protocol


class Progress(Protocol):
    """A callable that long work tells how far it is. Nothing is printed where none is given."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report that `done` of `total` steps are done; the total may not be known. The note says what was last."""


def silent(done: int, total: int | None = None, note: str = "") -> None:
    """Progress that nobody looks at."""
