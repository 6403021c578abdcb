"""What `plan data` finds, as a document. Loads no torch."""

from typing import Literal

from spectra.core.documents import Document, Value
from trainer.settings import DataSettings


class Stretch(Value):
    """A stretch of an example, as its tokens say it."""

    text: str
    tokens: int
    learned: bool


class Shown(Value):
    """An example as the model is given it."""

    row: int
    """In the file, from 1."""
    stretches: tuple[Stretch, ...]


class Lengths(Value):
    """The examples whose number of tokens is in one range."""

    least: int
    most: int
    examples: int


class Cut(Value):
    """What a maximum length would do."""

    max_length: int
    cut: int
    """Examples that would lose something."""
    left_out: int
    """Examples whose last answer alone is longer."""


class Same(Value):
    """Rows that a file has in common with another."""

    file: str
    rows: int
    """Rows of the other file that are here as well."""
    prompts: int
    """Rows of the other file whose prompt is here as well, whatever the answer."""
    of: int


class DataReport(Document):
    """A dataset file under a model's tokenizer."""

    kind: Literal["data"] = "data"
    file: str
    model: str
    format: str
    """Name in the table of formats."""
    task: Literal["classification", "causal", "multiple-choice"]
    rows: int
    ignored: tuple[str, ...]
    """Columns that nothing is read from."""
    settings: DataSettings
    """As they would be used, with nothing left open."""
    examples: int
    """Answers that stand in an example of their own included."""
    learned_tokens: int
    other_tokens: int
    lengths: tuple[Lengths, ...]
    cuts: tuple[Cut, ...]
    labels: dict[str, int]
    """Rows of each label; empty for a language model."""
    duplicates: int
    """Rows that say what an earlier one does."""
    overlap: tuple[Same, ...]
    """With files to evaluate on."""
    shown: tuple[Shown, ...]
