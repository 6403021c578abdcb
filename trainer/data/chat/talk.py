"""A conversation under a chat template: what it writes up to every turn, and where an answer begins in it."""

from collections.abc import Sequence
from typing import NamedTuple

from trainer.data.chat.proof import THOUGHT, require_tools, require_written, spoken, thought_of
from trainer.data.chat.stops import Stops
from trainer.data.chat.template import Rendered, Template, Way
from trainer.data.formats.messages import Message


class Segment(NamedTuple):
    """A stretch of an example's text."""

    text: str
    trained: bool
    """Whether the loss counts its tokens."""


Example = list[Segment]


class Turn(NamedTuple):
    """An assistant's turn as a template writes it."""

    parts: Example
    """What stands before the answer when the model is asked for it, then the answer."""
    ended: bool
    """Whether the answer has an end."""


class Talk:
    """A conversation under a template, of which each beginning is rendered once."""

    def __init__(self, messages: Sequence[Message], tools: str, template: Template, way: Way) -> None:
        """Take canonical messages, the JSON text of the tools, and the way in which the template is given them."""
        self.messages, self.tools, self._template, self._way = messages, tools, template, way
        self._known: dict[tuple[int, bool], Rendered] = {}

    def told(self, number: int) -> Rendered:
        """The turns up to and with one."""
        return self._rendered(number + 1, asks=False)

    def asked(self, number: int) -> Rendered:
        """The turns before one, asking for it."""
        return self._rendered(number, asks=True)

    def _rendered(self, count: int, *, asks: bool) -> Rendered:
        if (count, asks) not in self._known:
            self._known[count, asks] = self._template.render(self.messages[:count], self.tools, asks, self._way)
        return self._known[count, asks]

    def divided(self, number: int) -> tuple[str, str]:
        """What stands before an answer when the model is asked for it, and the answer with what is behind it."""
        asked, told = self.asked(number).text, self.told(number).text
        if told.startswith(asked):
            return asked, told[len(asked) :]
        before, said = self.before(number), spoken(self.messages[number]["content"])
        # Some templates write the system's turn before the last question, and not once it is answered. Asking is what counts.
        behind = asked.rpartition(before)[2] if before else asked
        answer = told[told.rfind(before, 0, max(told.rfind(said), 0)) + len(before) :]
        if before and not told.startswith(asked[: len(asked) - len(behind)]) and answer.startswith(behind):
            return asked, answer[len(behind) :]
        start = parting(asked, told, [spoken(turn["content"]) for turn in self.messages[:number]])
        return told[:start], told[start:]

    def before(self, number: int) -> str:
        """What was said last before an answer by somebody else."""
        others = (message for message in reversed(self.messages[:number]) if message["role"] != "assistant")
        return spoken(next(others, {"content": ""})["content"])

    def thoughts(self, number: int) -> list[str]:
        """What may stand before an answer's words: its thought, and the end of one."""
        return [part for part in (thought_of(self.messages[number]), THOUGHT) if part]

    def require_whole(self) -> None:
        """Refuse a template that leaves out a turn that is only read, or the tools."""
        last = max((number for number, turn in enumerate(self.messages) if turn["learned"]), default=0)
        whole = self.told(len(self.messages) - 1).text + (self.asked(last).text if last else "")
        require_tools(self.tools, whole)
        for number, turn in enumerate(self.messages):
            if not turn["learned"]:
                require_written(turn, number, whole, learned=False)


def marked_turn(told: Rendered, before: int, stops: Stops) -> Turn | None:
    """The turn as the template marks it, which has so many marks in earlier turns; None where it marks nothing of this one.

    Where the marks leave out the token behind them that stops generation, it is learned all the same.
    """
    marks = told.marks[before:]
    if not marks:
        return None
    stop = stops.opening(told.text[marks[-1][1] :])
    marks = [*marks[:-1], (marks[-1][0], marks[-1][1] + len(stop))]
    parts, done = [], 0
    for start, end in marks:
        parts += [Segment(told.text[done:start], False), Segment(told.text[start:end], True)]
        done = end
    return Turn(parts, ended=stops.ends(parts[-1].text))


def parting(asked: str, told: str, earlier: Sequence[str]) -> int:
    """Where two renderings part, where no token is cut in two: behind a line's end, a colon, or the end of a mark such as `>`.

    Args:
        asked: ends with what asks for an answer.
        told: has the answer in its place.
        earlier: what the turns before it say, in which no answer begins.
    """
    pairs = enumerate(zip(asked, told, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(asked), len(told)))
    place = max(asked.rfind(mark, 0, same) + 1 for mark in "\n>]:")
    behind = max((asked.rfind(said, 0, same) + len(said) for said in earlier if said in asked[:same]), default=0)
    return max(place, behind)
