"""Multiple-choice questions under the many forms that data sets give them."""

from collections.abc import Sequence
from typing import Any

from spectra import InputError
from trainer.data.formats.fields import Fields, shown

FROM_ONE = (("answerA", "answerB", "answerC"),)
"""Columns of choices whose publishers number them from 1."""


def multiple_choice(row: Fields) -> dict[str, Any]:
    """The answer is the text of the right choice, its label, its letter, or its index from 0; of marks for each, the largest."""
    choices, labels, marks = _choices(row)
    prompt, before = row.needed("prompt"), row.optional("context")
    return {
        "prompt": f"{before}\n\n{prompt}" if before else prompt,
        "choices": choices,
        "answer": _answer(row, choices, labels, marks),
    }


def _choices(row: Fields) -> tuple[list[str], Sequence[Any], Any]:
    """The choices, their labels, and the mark of each, where a column has them together."""
    value, labels, marks = row.parsed("choices"), (), None
    if isinstance(value, dict):
        labels, marks = value.get("label") or (), value.get("labels")
        value = value.get("text", value.get("choices"))
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"{row.column('choices')} are {shown(row['choices'])}; give a list of at least two texts")
    return value, labels, marks


def _answer(row: Fields, choices: list[str], labels: Sequence[Any], marks: Any) -> int:
    given = marks if marks is not None else row.parsed("answer")
    found: Any = given
    if isinstance(given, list):
        best = [number for number, mark in enumerate(given) if mark == max(given)] if all(map(_is_number, given)) else []
        found = best[0] if len(given) == len(choices) and len(best) == 1 else -1
    elif isinstance(given, str):
        found = _position(given, choices, labels)
    if isinstance(found, int) and not isinstance(given, list) and given not in choices and given not in labels:
        found -= row.held("choices") in FROM_ONE
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < len(choices):
        raise InputError(
            f"{row.column('answer')} is {shown(given)}; give the index of the right choice, from 0, its letter, or its text"
        )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _position(given: str, choices: list[str], labels: Sequence[Any]) -> int:
    # A choice's text goes before its index: among the choices 1, 2, 3 an answer of "2" is the second.
    if given in choices:
        return choices.index(given)
    if given in labels:
        return list(labels).index(given)
    bare = given.strip().strip("().")
    if len(bare) == 1 and "A" <= bare.upper() <= "Z":
        return ord(bare.upper()) - ord("A")
    return int(bare) if bare.isdecimal() and len(bare) < 10 else -1
