"""Conversations -> text: how a model is asked, and what it is to say."""

from transformers import PreTrainedTokenizerBase

from trainer.data.chat.talk import Example, Segment
from trainer.data.chat.writer import Writer
from trainer.data.formats import Row
from trainer.settings import DataSettings


def segments(row: Row, tokenizer: PreTrainedTokenizerBase, settings: DataSettings | None = None) -> list[Example]:
    """Write a canonical row, as `Writer.segments` does."""
    return Writer(tokenizer, settings or DataSettings()).segments(row)


__all__ = ["Example", "Segment", "Writer", "segments"]
