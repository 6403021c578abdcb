"""A chat template with the options of a run: messages -> text.

A template is a program that came with a model. It is run in a sandbox, for a bounded time, and on a day that does not change.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from spectra import InputError
from spectra.core.errors import first_line
from trainer.data.chat.bounded import TakesTooLongError, bounded
from trainer.data.formats.messages import Message
from trainer.settings import DataSettings

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
TODAY = re.compile(r"""strftime_now\s*\(\s*(?:format\s*=\s*)?(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")
ANY_DAY = re.compile(r"\bstrftime_now\s*\(")
RANDOM = re.compile(r"\|\s*random\b|\blipsum\s*\(")
AS_PYTHON = "{'type': 'text'"
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Names under which templates look for a thought."""


class TooSlowError(InputError):
    """A template that takes more time or memory than any row is worth. Nobody waits for it twice."""


class Way(NamedTuple):
    """One of the ways in which templates want to be given what a message says."""

    thought: str = "reasoning_content"
    arguments: str = "object"
    """A tool call's: an object, or its JSON text."""
    parts: bool = False
    """Content as a list of one text part, as templates of models that also see images want it."""


def ways_for(messages: Sequence[Message]) -> Iterator[Way]:
    """The ways to try, the usual one first; those that make no difference to the messages left out."""
    more = "".join(message["more"] for message in messages)
    thoughts = THOUGHTS if '"reasoning_content"' in more else THOUGHTS[:1]
    arguments = ("object", "text") if '"tool_calls"' in more else ("object",)
    for parts, argument, thought in product((False, True), arguments, thoughts):
        yield Way(thought, argument, parts)


class Rendered(NamedTuple):
    """What a template wrote."""

    text: str
    marks: list[tuple[int, int]]
    """Where the template says that the model speaks, by `{% generation %}`; none where it does not say."""


class Template:
    """A tokenizer's chat template, as a run uses it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> None:
        """Prepare to render.

        Raises:
            InputError: a template that asks for the day in a way that cannot be fixed.
        """
        self._tokenizer = tokenizer
        self._shared = {**tokenizer.special_tokens_map, **settings.template_options()}
        self.asks = "add_generation_prompt" in str(tokenizer.chat_template)
        """Whether it writes something else when the model is asked."""
        today = settings.template_date or date.today().isoformat()
        self.day = today if ANY_DAY.search(str(tokenizer.chat_template)) else ""
        """The day that it writes; nothing where it writes none."""

    def render(self, messages: Sequence[Message], tools: str, asks: bool, way: Way) -> Rendered:
        """Write messages.

        Args:
            messages: canonical.
            tools: JSON text of their list, or nothing.
            asks: whether the model is asked for an answer behind them.
            way: how the template is given them.

        Raises:
            InputError: what the template says against them, or that it takes too long.
        """
        given = [_given(message, way) for message in messages]
        listed = json.loads(tools) if tools else None
        with _one_line():
            source = _on_day(self._tokenizer.get_chat_template(None, listed), self.day)
            marked = bool(MARKS.search(source))
            texts, marks = render_jinja_template(
                conversations=[given], tools=listed, chat_template=source, add_generation_prompt=asks,
                return_assistant_tokens_mask=marked, **self._shared,
            )  # fmt: skip
        if way.parts and AS_PYTHON in texts[0]:
            raise InputError("the chat template writes content in parts as Python's text; use another template")
        return Rendered(texts[0], [tuple(mark) for mark in marks[0]] if marked else [])


@cache
def _on_day(source: str, day: str) -> str:
    """A template that writes that day, whenever it is run."""
    if found := RANDOM.search(source):
        raise InputError(f"the chat template draws at random ({found[0].strip()!r}); use another template")
    if not day:
        return source
    when = date.fromisoformat(day)
    fixed = TODAY.sub(lambda found: json.dumps(when.strftime(found["format"])), source)
    if ANY_DAY.search(fixed):
        raise InputError("the chat template asks for the time in a way that would change during a run; use another template")
    return fixed


def _given(message: Message, way: Way) -> dict[str, Any]:
    content = message["content"]
    found: dict[str, Any] = {"role": message["role"], "content": content}
    if way.parts:
        found["content"] = [{"type": "text", "text": content}] if content else []
    more = json.loads(message["more"]) if message["more"] else {}
    if (thought := more.pop("reasoning_content", None)) is not None:
        found[way.thought] = thought
    if way.arguments == "text" and "tool_calls" in more:
        more["tool_calls"] = [_with_text(call) for call in more["tool_calls"]]
    return found | more


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        with bounded():
            yield
    except (TakesTooLongError, MemoryError):
        raise TooSlowError("the chat template takes seconds or a gigabyte for one row; use another template") from None
    except InputError:
        raise
    # A template is a program, and may fail as one.
    except Exception as error:
        raise InputError(f"the chat template refuses the messages: {first_line(error)}; change them or remove the row") from None
