"""The table of dataset formats: what a file's columns make of its rows. A new format is one function and one line of `FORMATS`.

Every row becomes a canonical row: {text, label}, {text}, {prompt, completion}, {messages: [{role, content, learned}, ...]} or
{prompt, choices, answer}. Loads neither torch nor datasets, so that the command line can say which formats there are.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from spectra import InputError

Row = Mapping[str, Any]
Message = dict[str, Any]
"""`role`, `content`, and `learned`: whether the loss counts the turn."""

ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
FLAGS = ("weight", "train", "trainable")
"""Keys of a turn by which its publisher says whether it is to be learned."""
SYSTEM = ("system", "system_prompt")
"""Columns that hold a conversation's system turn."""
NOT_HEARD = ("reasoning_content", "reasoning", "thinking", "tool_calls", "function_call", "tool_call_id")
"""Keys of a turn that say something which would be lost."""
NOT_GIVEN = ("tools", "functions")
"""Columns of a conversation that a chat template would have to be given."""
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


class Format(NamedTuple):
    """How to recognise a format and read its rows."""

    columns: tuple[str, ...]
    """The columns it needs; others are ignored, but for those that `canonical` says are optional."""
    canonical: Callable[[Row], dict[str, Any]]
    """A row of the file -> a canonical row. Raises InputError without the name of the file and row."""
    becomes: dict[str, Any]
    """Columns of the canonical row with their types; a list holds its element's type."""
    task: Literal["classification", "causal", "multiple-choice"]
    """What a file of this format is for; multiple choice can be evaluated, not trained on."""


def detect(columns: Sequence[str], *, evaluation: bool = False) -> str:
    """Name of the first format in `FORMATS` whose columns are all there.

    Args:
        columns: of the file.
        evaluation: whether formats count that can only be evaluated.

    Raises:
        InputError: none fits.
    """
    known = {name: row for name, row in FORMATS.items() if evaluation or row.task != "multiple-choice"}
    for name, row in known.items():
        if set(row.columns) <= set(columns):
            return name
    table = "; ".join(f"{name} ({', '.join(row.columns)})" for name, row in known.items())
    raise InputError(f"columns {', '.join(columns)} fit no known format; rename them to those of one: {table}")


def formats_help() -> str:
    """The formats of training data in one line, for help texts."""
    rows = (row for row in FORMATS.values() if row.task != "multiple-choice")
    return "; ".join(" and ".join(row.columns) for row in rows)


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
    # Not `if not label`: 0 and False are labels.
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
    return {"messages": [_message(role, content) for role, content in turns]}


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content, "learned": role == "assistant"}


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
    if lost := next((name for name in NOT_GIVEN if row.get(name)), None):
        raise InputError(f"{lost} is {_shown(row[lost])}; chat templates are not given it, so remove the column or the row")
    found = _with_system(row, [_turn(turn, f"{column}[{number}]", speaker, said, roles) for number, turn in enumerate(turns)])
    if all(message["role"] != "assistant" for message in found):
        raise InputError(f"{column} has no assistant turn among {len(found)}; add one or remove the row")
    if not any(message["learned"] for message in found):
        raise InputError(f"{column} has no assistant turn that is to be learned; remove the row")
    if found[0]["role"] == "assistant":
        raise InputError(f"{column} begins with the assistant's turn; put a user or system turn before it or remove the row")
    return found


def _with_system(row: Row, found: list[Message]) -> list[Message]:
    """The conversation with the system turn that the row keeps in a column of its own."""
    texts = {name: text for name in SYSTEM if (text := _optional(row, name))}
    if not texts:
        return found
    name, text = next(iter(texts.items()))
    own = found[0]["content"] if found[0]["role"] == "system" else text
    if odd := next((other for other in (own, *texts.values()) if other != text), None):
        raise InputError(f"{name} is {_shown(text)}, and another system turn {_shown(odd)}; keep one of them")
    return found if found[0]["role"] == "system" else [_message("system", text), *found]


def _learned(turn: Row, role: str, place: str) -> bool:
    """Whether a turn is learned: an assistant's, unless its publisher says otherwise.

    Raises:
        InputError: a flag that is neither yes nor no, or yes at a turn that is not the assistant's.
    """
    said = {name: turn[name] for name in FLAGS if turn.get(name) is not None}
    if odd := next((name for name, value in said.items() if value not in (0, 1)), None):
        raise InputError(f"{place}: {odd} is {_shown(said[odd])}; it must be 0 or 1")
    if role != "assistant" and (odd := next((name for name in ("train", "trainable") if said.get(name)), None)):
        raise InputError(f"{place}: {odd} is {_shown(said[odd])}, but only the assistant's turns are learned; use `loss_on` all")
    return role == "assistant" and all(said.values())


def _turn(turn: Any, place: str, speaker: str, said: str, roles: dict[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise InputError(f"{place} is {_shown(turn)}; it must be an object with {speaker} and {said}")
    role = turn.get(speaker)
    if not isinstance(role, str) or role not in roles:
        raise InputError(f"{place}: {speaker} is {_shown(role)}; use one of {', '.join(roles)}")
    if lost := next((name for name in NOT_HEARD if turn.get(name)), None):
        raise InputError(f"{place}: {lost} is {_shown(turn[lost])}; it would be lost, so write it into {said} or remove the row")
    content = _needed(turn, said, f"{place}: ")
    return _message(roles[role], content) | {"learned": _learned(turn, roles[role], place)}


def _multiple_choice(row: Row) -> dict[str, Any]:
    """The answer is the index of the right choice, from 0, or its text; choices may be a list written as JSON."""
    prompt, choices, answer = _needed(row, "prompt"), row["choices"], row["answer"]
    # A CSV file can hold a list only as text.
    if isinstance(choices, str) and choices.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # what is no JSON stays text, and is refused as such
            choices = json.loads(choices)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise InputError(f"choices are {_shown(choices)}; give a list of at least two texts")
    if isinstance(answer, str):
        # Its text goes before its index: among the choices 1, 2, 3 an answer of "2" is the second.
        answer = choices.index(answer) if answer in choices else int(answer) if answer.isdecimal() and len(answer) < 10 else -1
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise InputError(f"answer is {_shown(row['answer'])}; give the index of the right choice, from 0, or its text")
    return {"prompt": prompt, "choices": choices, "answer": answer}


TEXT, LABELLED = {"text": "string"}, {"text": "string", "label": "string"}
MESSAGES = {"messages": [{"role": "string", "content": "string", "learned": "bool"}]}
COMPLETION = {"prompt": "string", "completion": "string"}
QUESTION = {"prompt": "string", "choices": ["string"], "answer": "int64"}

# The first that fits wins: a conversation says more than the rendered `text` that some files carry beside it.
FORMATS: dict[str, Format] = {
    "multiple-choice": Format(("prompt", "choices", "answer"), _multiple_choice, QUESTION, "multiple-choice"),
    "classification": Format(("text", "label"), _classification, LABELLED, "classification"),
    "messages": Format(("messages",), _messages, MESSAGES, "causal"),
    "sharegpt": Format(("conversations",), _sharegpt, MESSAGES, "causal"),
    "alpaca": Format(("instruction", "output"), _alpaca, MESSAGES, "causal"),
    "completion": Format(("prompt", "completion"), _completion, COMPLETION, "causal"),
    "text": Format(("text",), _text, TEXT, "causal"),
}
