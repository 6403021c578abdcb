"""Dataset formats: what a file's columns make of its rows, and how a row is written out as text for a language model.

Every row becomes one of four canonical rows: {text, label}, {text}, {prompt, completion} or {messages: [{role, content}, ...]}.
A new format is one function and one line of `FORMATS`.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from spectra import InputError

Row = Mapping[str, Any]
Message = dict[str, str]

ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

STRING = datasets.Value("string")
MESSAGES = {"messages": datasets.List({"role": STRING, "content": STRING})}
COMPLETION = {"prompt": STRING, "completion": STRING}


class Format(NamedTuple):
    """How to recognise a format and read its rows."""

    columns: tuple[str, ...]
    """The columns it needs; others are ignored, but for those that `canonical` says are optional."""
    canonical: Callable[[Row], dict[str, Any]]
    """A row of the file -> a canonical row. Raises InputError without the name of the file and row."""
    becomes: dict[str, Any]
    """Columns of the canonical row, as datasets features."""


def detect(columns: Sequence[str]) -> str:
    """Name of the first format in `FORMATS` whose columns are all there.

    Raises:
        InputError: none fits.
    """
    for name, known in FORMATS.items():
        if set(known.columns) <= set(columns):
            return name
    table = "; ".join(f"{name} ({', '.join(known.columns)})" for name, known in FORMATS.items())
    raise InputError(f"columns {', '.join(columns)} fit no known format; rename them to those of one: {table}")


def csv_options(path: Path) -> dict[str, Any]:
    """Options of datasets.load_dataset that take every CSV field as it is written: an answer of 42 and a label of NA are text.

    Raises:
        InputError: a line with more or fewer fields than the header, which the reader would shift into the wrong columns.
    """
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        header = next(lines)
        for fields in lines:
            if fields and len(fields) != len(header):
                counts = f"{len(fields)} fields under {len(header)} columns"
                raise InputError(f"{path}:{lines.line_num}: {counts}; put fields that hold a comma in quotes")
    return {"features": datasets.Features(dict.fromkeys(header, STRING)), "keep_default_na": False}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _needed(row: Row, name: str, place: str = "") -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}{name} is {_shown(value)}; it must be text that is not blank")
    return value


def _optional(row: Row, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} is {_shown(value)}; it must be text or left out")
    return value if value and value.strip() else ""


def _text(row: Row) -> dict[str, Any]:
    return {"text": _needed(row, "text")}


def _classification(row: Row) -> dict[str, Any]:
    """Labels may be numbers."""
    if row["label"] in (None, ""):
        raise InputError("label is missing; every row needs one")
    return _text(row) | {"label": str(row["label"])}


def _completion(row: Row) -> dict[str, Any]:
    return {"prompt": _needed(row, "prompt"), "completion": _needed(row, "completion")}


def _alpaca(row: Row) -> dict[str, Any]:
    """`input` follows the instruction on a line of its own; `system` and `history`, pairs of user and assistant, come before."""
    turns = [("system", system)] if (system := _optional(row, "system")) else []
    for number, pair in enumerate(_history(row.get("history")), start=1):
        place = f"history pair {number}: "
        turns += [(role, _needed(pair, role, place)) for role in ("user", "assistant")]
    given = _optional(row, "input")
    turns.append(("user", _needed(row, "instruction") + (f"\n{given}" if given else "")))
    turns.append(("assistant", _needed(row, "output")))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _history(value: Any) -> list[Row]:
    pairs = [] if value is None else value
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"history is {_shown(value)}; it must be a list of [user, assistant] pairs")
    return [dict(zip(("user", "assistant"), pair, strict=True)) for pair in pairs]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": _conversation(row, "messages", "role", "content", ROLES)}


def _sharegpt(row: Row) -> dict[str, Any]:
    return {"messages": _conversation(row, "conversations", "from", "value", SPEAKERS)}


def _conversation(row: Row, column: str, speaker: str, said: str, roles: dict[str, str]) -> list[Message]:
    turns = row[column]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{column} is {_shown(turns)}; it must be a list of {{{speaker}, {said}}} with at least one turn")
    found = [_turn(turn, f"{column}[{number}]", speaker, said, roles) for number, turn in enumerate(turns)]
    if all(message["role"] != "assistant" for message in found):
        raise InputError(f"{column} has no assistant turn among {len(found)}; add one or remove the row")
    if found[0]["role"] == "assistant":
        raise InputError(f"{column} begins with the assistant's turn; put a user or system turn before it or remove the row")
    return found


def _turn(turn: Any, place: str, speaker: str, said: str, roles: dict[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise InputError(f"{place} is {_shown(turn)}; it must be an object with {speaker} and {said}")
    role = turn.get(speaker)
    if not isinstance(role, str) or role not in roles:
        raise InputError(f"{place}: {speaker} is {_shown(role)}; use one of {', '.join(roles)}")
    return {"role": roles[role], "content": _needed(turn, said, f"{place}: ")}


# The first that fits wins: a conversation says more than the rendered `text` that some files carry beside it.
FORMATS: dict[str, Format] = {
    "classification": Format(("text", "label"), _classification, {"text": STRING, "label": STRING}),
    "messages": Format(("messages",), _messages, MESSAGES),
    "sharegpt": Format(("conversations",), _sharegpt, MESSAGES),
    "alpaca": Format(("instruction", "output"), _alpaca, MESSAGES),
    "completion": Format(("prompt", "completion"), _completion, COMPLETION),
    "text": Format(("text",), _text, {"text": STRING}),
}
