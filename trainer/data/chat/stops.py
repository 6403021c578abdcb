"""The tokens that end an answer."""

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase


class Stops:
    """How a model's answers end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read what stops the model's generation, and which tokens are marks and no words."""
        self.own = str(tokenizer.eos_token or "")
        """The token that is appended where a template writes none."""
        ends = {self.own, *_of_generation(tokenizer)} - {""}
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        self.marks = special
        """The tokenizer's special tokens."""
        self._ends, self._marks = _any_of(ends), _any_of(special - ends)
        self.all = ends
        """The tokens that stop generation."""

    def end(self, text: str, start: int) -> int:
        """The position behind what ends an answer, in a text from `start` on; -1 where nothing does.

        The first token that stops generation does. A model whose files name no such token that its template writes stops at the
        template's last mark.
        """
        if found := self._ends.search(text, start):
            return found.end()
        marks = list(self._marks.finditer(text, start))
        return marks[-1].end() if marks else -1

    def ends(self, text: str) -> bool:
        """Whether a text ends with such a token, but for blanks behind it."""
        return text.rstrip().endswith((*self.all, *self.marks))

    def opening(self, text: str) -> str:
        """The token that stops generation with which a text begins, such as the next speaker's; or nothing."""
        return next((stop for stop in self.all if text.startswith(stop)), "")


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")  # the latter fits nothing


def _of_generation(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The end tokens that the model's generation settings name."""
    path = Path(tokenizer.name_or_path or ".") / "generation_config.json"
    ids = _ids(path, path.stat().st_mtime_ns) if tokenizer.name_or_path and path.is_file() else ()
    return [token for token in tokenizer.convert_ids_to_tokens(list(ids)) if token]


@lru_cache(maxsize=8)
def _ids(path: Path, _changed: int) -> tuple[int, ...]:
    try:
        found: Any = json.loads(path.read_bytes()).get("eos_token_id")
    except (ValueError, AttributeError, OSError):  # loading the model says what is wrong with it
        return ()
    listed = found if isinstance(found, list) else [found]
    return tuple(number for number in listed if type(number) is int and 0 <= number < 2**31)
