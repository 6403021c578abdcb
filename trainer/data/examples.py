"""What is read from a dataset file, before and after tokenisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.formats import FORMATS
from trainer.settings import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One dataset file, read and checked but not tokenised."""

    path: Path
    format: str
    """Name in the table of formats of what the file's columns are."""
    rows: Any
    """A datasets.Dataset of canonical rows, and in `row` the number that each had in the file, from 1."""

    @property
    def task(self) -> Task:
        """What a run learns from the file; multiple-choice questions are asked of a language model."""
        return "classification" if FORMATS[self.format].task == "classification" else "causal"

    @property
    def asks(self) -> bool:
        """Whether the rows are multiple-choice questions."""
        return FORMATS[self.format].task == "multiple-choice"

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.rows["label"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Token ids, ready to be collated."""

    task: Task
    rows: Any
    """A datasets.Dataset with `input_ids`, `attention_mask` and `labels`: a class id, or per token its id or -100 for no loss.
    Packed rows have `position_ids` and no `attention_mask`."""
    truncated: int
    """How many texts were longer than the maximum length, and lost their oldest turns, their prompt's front, or their end."""
    dropped: int = 0
    """How many texts are not among the rows: they had no token to learn from, or an answer longer than the maximum length."""

    @property
    def packed(self) -> bool:
        """Whether a row holds several examples."""
        return "position_ids" in self.rows.column_names
