"""What a demo runs on, and commands that it runs beside its recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A demo's model and data."""

    model: Path
    train: Path
    test: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the demo, as a user would type it after `plan`."""

    arguments: tuple[str, ...]
    comment: str = ""
    before: Callable[[], None] | None = None
    """Makes what has to be there first and no command makes."""
