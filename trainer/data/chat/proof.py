"""Proof that a chat template writes what messages say, before anything is learned from it."""

import json
from collections.abc import Iterator
from typing import Any

from spectra import InputError
from trainer.data.formats.messages import Message

THOUGHT = "</think>"


def spoken(content: str) -> str:
    """What a turn says after its thought, which templates may take out."""
    return content.rpartition(THOUGHT)[2].strip()


def thought_of(message: Message) -> str:
    """What a turn thinks beside its content."""
    return str(json.loads(message["more"]).get("reasoning_content") or "").strip() if message["more"] else ""


def require_written(message: Message, number: int, text: str, *, learned: bool) -> None:
    """Refuse a template that leaves out what a turn says.

    A thought may be missing from turns that are only read, because models of today do not see their earlier thoughts. Written in
    the content, it may also be taken out of the answer that is learned.

    Args:
        message: canonical.
        number: of the turn, from 0.
        text: what the template wrote.
        learned: whether the turn is learned there.

    Raises:
        InputError: the turn, and what of it is missing.
    """
    if (whole := message["content"].strip()) not in text and spoken(whole) not in text:
        _refuse(number, message["role"], "says", beside=False)
    if not message["more"]:
        return
    more = json.loads(message["more"])
    if learned and thought_of(message) not in text:
        _refuse(number, message["role"], "thinks (`reasoning_content`)")
    for call in more.get("tool_calls", ()):
        if not all(_stands(leaf, text) for leaf in _leaves([call["function"]["name"], call["function"]["arguments"]])):
            _refuse(number, message["role"], f"calls (`tool_calls`: {call['function']['name']})")


def require_tools(tools: str, text: str) -> None:
    """Refuse a template that does not write which tools there are.

    Raises:
        InputError: the first tool that is missing.
    """
    for tool in json.loads(tools) if tools else ():
        name = tool.get("function", tool).get("name", "")
        if name not in text:
            raise NotWrittenError(
                f"the chat template does not write the tool {name!r} of `tools`; use another template, or write the tools into"
                " the system turn and leave the column out",
                beside=True,
            )


class NotWrittenError(InputError):
    """Something that a template was given, and did not write."""

    def __init__(self, message: str, *, beside: bool) -> None:
        """Say what, and whether it stood beside the contents, all of which are written."""
        super().__init__(message)
        self.beside = beside


def _refuse(number: int, role: str, what: str, *, beside: bool = True) -> None:
    raise NotWrittenError(
        f"the chat template does not write what turn {number} ({role}) {what}; use another template", beside=beside
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _stands(leaf: Any, text: str) -> bool:
    """Whether a value stands in a text in one of the notations of templates: JSON's, with or without its escapes, or Python's."""
    bare = leaf if isinstance(leaf, str) else json.dumps(leaf)
    escaped = {json.dumps(leaf, ensure_ascii=ascii_only).strip('"') for ascii_only in (False, True)}
    return any(form in text for form in (bare, *escaped, str(leaf), repr(leaf)[1:-1]))
