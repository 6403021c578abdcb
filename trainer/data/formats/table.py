"""The table of dataset formats: which columns make which rows.

Every row becomes a canonical row: {text, label}, {text, pair, label}, {text}, {prompt, completion},
{segments: [{text, learned}]}, {messages: [{role, content, learned, more}], tools} or {prompt, choices, answer}. Loads neither
torch nor datasets, so that the command line can say which formats there are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from spectra import InputError
from trainer.data.formats.fields import Fields, Row
from trainer.data.formats.messages import alpaca, conversation, prompt_and_completion, question, written_chat
from trainer.data.formats.questions import multiple_choice
from trainer.data.formats.texts import classification, completion, pair_classification, segments, text

Names = tuple[str | tuple[str, ...], ...]
"""The columns that may hold a field: the field's own name, and others. Several columns that hold it together stand as a tuple."""


class Format(NamedTuple):
    """How to recognise a format and read its rows."""

    needs: Mapping[str, Names]
    """The fields that it needs, with the columns that may hold them."""
    canonical: Callable[[Fields], dict[str, Any]]
    """A row of the file -> a canonical row. Raises InputError without the name of the file and row."""
    becomes: dict[str, Any]
    """Columns of the canonical row with their types; a list holds its element's type."""
    task: Literal["classification", "causal", "multiple-choice"]
    """What a file of this format is for; multiple choice can be evaluated, not trained on."""
    takes: Mapping[str, Names] = {}
    """Fields that it takes where they are there."""
    fits: Callable[[Fields], bool] = lambda row: True
    """Whether a row's values fit, where columns do not tell formats apart."""
    asks: bool = False
    """Whether two columns that may hold one field are ambiguous even where one has the field's own name."""


TEXT, LABELLED = {"text": "string"}, {"text": "string", "label": "string"}
PAIR = {"text": "string", "pair": "string", "label": "string"}
MESSAGES = {
    "messages": [{"role": "string", "content": "string", "learned": "bool", "more": "string"}],
    "tools": "string",
}
COMPLETION = {"prompt": "string", "completion": "string"}
SEGMENTS = {"segments": [{"text": "string", "learned": "bool"}]}
QUESTION = {"prompt": "string", "choices": ["string"], "answer": "int64"}

LABEL: Names = ("label", "labels", "sentiment", "emotion", "intent", "label_text", "label_name")
LABEL_NAME: dict[str, Names] = {"label_name": ("label_name", "label_text")}
SYSTEM: Names = ("system", "system_prompt", "system_message")
TOOLS: Names = ("tools", "functions")
CONTEXT: Names = ("context", "passage")
AROUND: dict[str, Names] = {"system": SYSTEM, "tools": TOOLS}
CHOICES: Names = (
    "choices", "options", "endings", "multiple_choice_targets", "mc1_targets", ("sol1", "sol2"),
    ("answerA", "answerB", "answerC"), ("opa", "opb", "opc", "opd"), ("A", "B", "C", "D"),
    ("distractor1", "distractor2", "distractor3", "correct_answer"),
)  # fmt: skip
RIGHT: Names = (
    "answer", "answerKey", "label", "multiple_choice_scores", "mc1_targets", "correct_answer", "cop", "answer_index",
)  # fmt: skip


def _has_choices(row: Fields) -> bool:
    return row.get("choices") not in ([], "[]")  # BIG-bench keeps them empty where a task has none


def _are_turns(row: Fields) -> bool:
    return isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)


def _is_chat(row: Fields) -> bool:
    return isinstance(row.get("chat"), str)


# The first that fits wins: a conversation says more than the rendered `text` that some files carry beside it.
FORMATS: dict[str, Format] = {
    "multiple-choice": Format(
        {"prompt": ("prompt", "question", "ctx", "goal", "question_stem", "inputs"), "choices": CHOICES, "answer": RIGHT},
        multiple_choice, QUESTION, "multiple-choice", {"context": (*CONTEXT, "article", "support")}, _has_choices,
    ),
    "pair-classification": Format(
        {
            "first": ("first", "premise", "sentence1", "question1", "text1", "text_a", "question"),
            "second": ("second", "hypothesis", "sentence2", "question2", "text2", "text_b", "sentence"),
            "label": LABEL,
        },
        pair_classification, PAIR, "classification", LABEL_NAME,
    ),
    "classification": Format(
        {"text": ("text", "sentence", "review", "utterance", "tweet", "content"), "label": LABEL},
        classification, LABELLED, "classification", LABEL_NAME,
    ),
    "messages": Format(
        {"messages": ("messages", "conversations", "conversation", "dialogue", "dialog")},
        conversation, MESSAGES, "causal", AROUND,
    ),
    "chat": Format({"chat": ("chat",)}, written_chat, MESSAGES, "causal", AROUND, _is_chat),
    "segments": Format({"segments": ("segments",)}, segments, SEGMENTS, "causal"),
    "prompt-messages": Format(
        {"prompt": ("prompt",), "completion": ("completion",)},
        prompt_and_completion, MESSAGES, "causal", AROUND, _are_turns,
    ),
    "alpaca": Format(
        {"instruction": ("instruction",), "output": ("output", "response", "completion", "answer", "target")},
        alpaca, MESSAGES, "causal", {"input": ("input", "context"), "history": ("history",), **AROUND},
    ),
    "completion": Format({"prompt": ("prompt",), "completion": ("completion",)}, completion, COMPLETION, "causal"),
    "question": Format(
        {
            "question": ("question", "query", "problem", "prompt", "input", "inputs", "document", "article"),
            "answer": (
                "answer", "answers", "response", "solution", "attempt", "generated_solution", "output", "target", "targets",
                "completion", "summary", "highlights",
            ),
        },
        question, MESSAGES, "causal", {"context": CONTEXT, **AROUND}, asks=True,
    ),
    "text": Format({"text": ("text", "content")}, text, TEXT, "causal"),
}  # fmt: skip

PREFERENCE = (
    "preference data, which compares answers; to train on the better ones alone, say by `columns` which column they are in"
)
REFUSED: dict[tuple[str, ...], str] = {
    ("chosen", "rejected"): PREFERENCE,
    ("rejected",): PREFERENCE,
    ("rejected_response",): PREFERENCE,
    ("prompt", "completion", "label"): "preference data, which marks completions as wanted or not; keep the wanted ones and"
    " leave the label out",
    ("completions", "labels"): "preference data, which marks the steps of answers; write the steps into one completion",
    ("parent_id", "message_id"): "a tree of messages; write each of its branches as a conversation",
}
"""Columns by which data is known that cannot be learned from as it is -> what it is, and what to do."""
PICTURES = ("image", "images", "audio", "audios", "video", "videos")
"""Columns of what no text model can be given; empty ones are let be."""
WANTED = ("label", "kto_tag")
"""Columns that mark conversations as wanted or not."""


class Layout(NamedTuple):
    """How a file's columns are read."""

    format: str
    """Name in `FORMATS`."""
    columns: Mapping[str, Any]
    """Field -> the column that holds it, or several."""
    ignored: tuple[str, ...]
    """Columns that nothing is read from."""
    roles: Mapping[str, str] = {}

    def canonical(self, record: Row) -> dict[str, Any]:
        """A record of the file as a canonical row.

        Raises:
            InputError: a row that does not fit its format.
        """
        return FORMATS[self.format].canonical(_fields(record, self.columns, self.roles))


def _fields(record: Row, columns: Mapping[str, Any], roles: Mapping[str, str] | None = None) -> Fields:
    # A row need not have every column that others have.
    def value(held: str | tuple[str, ...]) -> Any:
        return record.get(held) if isinstance(held, str) else [record.get(column) for column in held]

    return Fields({field: value(held) for field, held in columns.items()}, columns, roles)


def layout_of(
    columns: Sequence[str],
    first: Row | None = None,
    *,
    evaluation: bool = False,
    named: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Layout:
    """How to read a file: as the first format in `FORMATS` that its columns fit.

    Args:
        columns: of the file.
        first: a row, where formats differ in what columns hold.
        evaluation: whether formats count that can only be evaluated.
        named: field -> the column that holds it, where its user says so.
        roles: a speaker's name -> role, likewise.

    Raises:
        InputError: none fits, columns that are ambiguous, or data that cannot be learned from.
    """
    named = named or {}
    if odd := [column for column in named.values() if column not in columns]:
        raise InputError(f"`columns` names {odd[0]!r}, but the columns are {', '.join(columns)}")
    if not named:
        _require_texts(columns, first or {})
    for name, known in FORMATS.items():
        held = _held(known, columns, named)
        if held is None or not known.fits(_fields(first or {}, held)):
            continue
        if known.task == "multiple-choice" and not evaluation:
            if {"inputs", "targets"} <= set(columns) or any(
                _held(FORMATS[one], columns, named) for one in ("completion", "messages")
            ):
                continue
            raise InputError("multiple-choice questions can be evaluated, not trained on; give prompts with completions")
        _require_clear(known, columns, named)
        used = {column for one in held.values() for column in ((one,) if isinstance(one, str) else one)}
        return Layout(name, held, tuple(column for column in columns if column not in used), roles or {})
    table = "; ".join(f"{name} ({', '.join(row.needs)})" for name, row in FORMATS.items() if evaluation or _is_trained(row))
    raise InputError(
        f"columns {', '.join(columns)} fit no known format; say by `columns` which is which, such as prompt=COLUMN, by the"
        f" names of one of: {table}"
    )


def _require_texts(columns: Sequence[str], first: Row) -> None:
    """Refuse data that cannot be learned from as it is.

    Raises:
        InputError: what it is, and what to do.
    """
    if found := next((marks for marks in REFUSED if set(marks) <= set(columns)), None):
        raise InputError(f"columns {', '.join(found)}: this is {REFUSED[found]}")
    if odd := next((name for name in PICTURES if first.get(name)), None):
        raise InputError(f"column {odd}: images, sounds and videos cannot be learned from; leave the column and such rows out")
    if (odd := next((name for name in WANTED if isinstance(first.get(name), bool)), None)) and _talks(columns, odd):
        raise InputError(
            f"column {odd}: this is preference data, which marks answers as wanted or not; keep the wanted ones and leave the"
            " column out"
        )


def _talks(columns: Sequence[str], mark: str) -> bool:
    """Whether a mark is of answers, and not the label of a text."""
    return mark == "kto_tag" or any(name in columns for name in FORMATS["messages"].needs["messages"])


def _is_trained(known: Format) -> bool:
    return known.task != "multiple-choice"


def _held(known: Format, columns: Sequence[str], named: Mapping[str, str]) -> dict[str, Any] | None:
    """Field -> column of a format, or None if the columns do not fit it."""
    fields = {**known.needs, **known.takes}
    if not named.keys() <= fields.keys():
        return None
    taken = set(named.values())
    found: dict[str, Any] = dict(named)
    for field, names in fields.items():
        there = [name for name in names if _is_there(name, columns) and not _overlaps(name, taken)]
        if field not in found and there:
            found[field] = there[0]
    return found if known.needs.keys() <= found.keys() else None


def _is_there(name: str | tuple[str, ...], columns: Sequence[str]) -> bool:
    return name in columns if isinstance(name, str) else set(name) <= set(columns)


def _overlaps(name: str | tuple[str, ...], taken: set[str]) -> bool:
    return name in taken if isinstance(name, str) else bool(taken & set(name))


def _require_clear(known: Format, columns: Sequence[str], named: Mapping[str, str]) -> None:
    for field, names in known.needs.items():
        there = [name for name in names if isinstance(name, str) and name in columns and name not in named.values()]
        if field in named or len(there) < 2 or (there[0] == field and not known.asks):
            continue
        raise InputError(f"columns {' and '.join(there)} may both be the {field}; say which by `columns` {field}={there[0]}")


def formats_help() -> str:
    """The formats of training data in one line, for help texts."""
    return "; ".join(dict.fromkeys(" and ".join(row.needs) for row in FORMATS.values() if _is_trained(row)))
