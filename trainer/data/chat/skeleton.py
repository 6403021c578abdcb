"""A shortcut through a chat template: how it writes conversations of one shape, found once with marks in place of what is said.

Most templates put what is said between fixed texts. What is found with marks is filled with a conversation's own words, and is
taken only if the template's rendering of these words is the same text to the last letter: one rendering in place of two for each
answer.
"""

import re
from collections.abc import Sequence

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.data.formats.messages import Message

MARK = re.compile(r"Zq(\d+)qZ")
Pattern = list[str | int]
"""A text in parts; a number stands for what the message of that number says."""


def marked(messages: Sequence[Message]) -> list[Message]:
    """The messages with a mark in place of what each says."""
    return [message | {"content": f"Zq{number}qZ"} for number, message in enumerate(messages)]


def pattern(text: str) -> Pattern:
    """A text with numbers in place of marks."""
    parts = MARK.split(text)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def filled(parts: Pattern, said: Sequence[str]) -> str:
    """The text with what the messages say."""
    return "".join(part if isinstance(part, str) else said[part] for part in parts)


def looked_for(source: str) -> re.Pattern[str] | None:
    """What a template looks for in what is said, such as `</think>`; None where that cannot be told.

    These are its texts on the left of `in`, and those that it gives to methods and filters, such as `split`.
    """
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(source)
    except jinja2.TemplateError:
        return None
    found = set()
    for compare in tree.find_all(nodes.Compare):
        if any(one.op in ("in", "notin") for one in compare.ops):
            found |= _texts(compare.expr)
    for call in (*tree.find_all(nodes.Call), *tree.find_all(nodes.Filter), *tree.find_all(nodes.Test)):
        for argument in getattr(call, "args", None) or ():
            found |= _texts(argument)
    # Blanks are what `strip` takes and `join` puts; single letters are not looked for in words.
    words = {text for text in found if len(text.strip()) > 1}
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _texts(node: nodes.Node) -> set[str]:
    own = {node.value} if isinstance(node, nodes.Const) and isinstance(node.value, str) else set()
    return own | {inner.value for inner in node.find_all(nodes.Const) if isinstance(inner.value, str)}
