"""One command of a demo."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the demo, as a user would type it after `plan`."""

    arguments: tuple[str, ...]
    comment: str = ""
    before: Callable[[], None] | None = None
    """Makes what has to be there first and no command makes."""
