"""Dataset formats: what a file's columns make of its rows, and how a row is written out as text for a language model.

Every row becomes one of four canonical rows: {text, label}, {text}, {prompt, completion} or {messages: [{role, content}, ...]}.
A new format is one function and one line of `FORMATS`.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from spectra import InputError

LossOn = Literal["completion", "all"]
Row = Mapping[str, Any]
Message = dict[str, str]

ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
HEADINGS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}

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


class Segment(NamedTuple):
    """A stretch of an example's text."""

    text: str
    trained: bool
    """Whether the loss counts its tokens."""


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


def segments(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> list[Segment]:
    """Write out a canonical row with `prompt` or `messages`; neighbours differ in `trained`, and no text is empty.

    A prompt and its completion are joined as they are, with the end-of-text token behind. Messages go through the tokenizer's
    chat template. Where it has none, they get a plain text that is our choice, after Alpaca's: the system's text bare, a user's
    under "### Instruction:", an assistant's under "### Response:" and closed by the end-of-text token, blank lines between.

    Args:
        row: what a format's `canonical` returned.
        tokenizer: whose chat template and end-of-text token are used.
        loss_on: the completion or the assistant's turns, or everything.

    Raises:
        InputError: a template that refuses the row, or that rewrites earlier turns so that the assistant's cannot be located.
    """
    if "messages" not in row:
        found = [Segment(row["prompt"], False), Segment(_closed(row["completion"], tokenizer), True)]
    elif not tokenizer.chat_template:
        found = _plain(row["messages"], tokenizer)
    elif loss_on == "all":
        found = [Segment(_render(row["messages"], tokenizer, False), True)]
    else:
        found = _templated(row["messages"], tokenizer)
    return _merged(Segment(text, trained or loss_on == "all") for text, trained in found)


def _merged(found: Iterable[Segment]) -> list[Segment]:
    whole = (segment for segment in found if segment.text)
    return [
        Segment("".join(part.text for part in group), trained) for trained, group in groupby(whole, lambda part: part.trained)
    ]


def _closed(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    end = tokenizer.eos_token or ""
    return text if text.endswith(end) else text + end


def _plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    found = []
    for position, message in enumerate(messages):
        answer = message["role"] == "assistant"
        found.append(Segment("\n\n" * (position > 0) + HEADINGS[message["role"]], False))
        found.append(Segment(_closed(message["content"], tokenizer) if answer else message["content"], answer))
    return found


def _templated(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    """An assistant's turn is what a rendering up to it adds to one that ends by asking for it.

    Few templates mark these turns themselves, which `return_assistant_tokens_mask` would need.
    """
    answers = [position for position, message in enumerate(messages) if message["role"] == "assistant"]
    cuts = [cut for position in answers for cut in ((position, False), (position + 1, True))]
    found, done = [], ""
    for count, trained in [*cuts, (len(messages), False)]:
        asks = count in answers and not trained
        text = _render(messages[:count], tokenizer, asks)
        if not text.startswith(done):
            raise InputError(
                "the tokenizer's chat template rewrites earlier turns, so the assistant's cannot be located; use loss_on='all'"
            )
        found.append(Segment(text[len(done) :], trained))
        done = text
    return found


def _render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, asks: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks))
    except (TemplateError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the tokenizer's chat template refuses the messages: {reason}; change them or remove the row") from None


def encode(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of canonical rows with `prompt` or `messages`, uncut; a label is -100 where there is no loss.

    Args:
        rows: with their `row` numbers.
        tokenizer: the model's own.
        loss_on: see `segments`.

    Raises:
        InputError: what `segments` says, after the number of the row.
    """
    found = [_written(row, tokenizer, loss_on) for row in rows]
    for row, written, parts in zip(rows, found, _tokens(found, tokenizer), strict=True):
        lead = [] if "messages" in row and tokenizer.chat_template else _lead(tokenizer)  # a chat template writes its own
        ids, labels = list(lead), list(lead) if loss_on == "all" else [-100] * len(lead)
        for segment, part in zip(written, parts, strict=True):
            ids += part
            labels += part if segment.trained else [-100] * len(part)
        yield ids, labels


def _written(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> list[Segment]:
    try:
        return segments(row, tokenizer, loss_on)
    except InputError as fault:
        raise InputError(f"row {row['row']}: {fault}") from None


def _lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return list(framed[: framed.index(bare[0])])


def _tokens(found: list[list[Segment]], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[list[int]]]:
    """Token ids of each segment, as they are when the text is tokenised in one piece up to and with the segment.

    Where the tokenizer would melt the end of one segment and the start of the next into one token, the next is tokenised alone:
    a model that is asked to go on from the first never sees that token either.
    """
    grown = ["".join(part.text for part in row[: count + 1]) for row in found for count in range(len(row))]
    whole = iter(tokenizer(grown, add_special_tokens=False, verbose=False)["input_ids"])
    for row in found:
        parts: list[list[int]] = []
        done: list[int] = []
        for segment in row:
            tokens = next(whole)
            joins = tokens[: len(done)] == done
            parts.append(tokens[len(done) :] if joins else tokenizer(segment.text, add_special_tokens=False)["input_ids"])
            done = done + parts[-1]
        yield parts


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
