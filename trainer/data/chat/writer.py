"""Canonical rows -> text, with what is learned told from what is read."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from spectra import InputError
from trainer.data.chat.proof import NotWrittenError, require_written, spoken
from trainer.data.chat.skeleton import Pattern, filled, looked_for, marked, pattern
from trainer.data.chat.stops import Stops
from trainer.data.chat.talk import Example, Segment, Talk, Turn, marked_turn
from trainer.data.chat.template import Template, TooSlowError, Way, ways_for
from trainer.data.formats import Row
from trainer.data.formats.messages import Message, message
from trainer.settings import DataSettings

HEADINGS = {
    "system": "", "developer": "", "user": "### Instruction:\n", "assistant": "### Response:\n", "tool": "### Result:\n",
}  # fmt: skip


class Writer:
    """Writes rows out as a run needs them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> None:
        """Prepare for a tokenizer's chat template and end tokens."""
        self.tokenizer, self.settings = tokenizer, settings
        self.stops = Stops(tokenizer)
        self.template = Template(tokenizer, settings) if tokenizer.chat_template else None
        self._looked_for = looked_for(str(tokenizer.chat_template)) if self.template else None
        self._skeletons: dict[tuple[Any, ...], list[_Skeleton]] = {}
        self.day = self.template.day if self.template else ""
        self.letters, self.letters_once = 0, 0
        """Of all examples, and of the longest of each row."""
        self.ended = False
        """Whether an answer got the model's own end because the template writes none."""

    def segments(self, row: Row) -> list[Example]:
        """Write a canonical row with `prompt`, `segments` or `messages`, as one example or as several.

        In each, neighbours differ in `trained`, and no text is empty. A prompt and its completion are joined as they are, with
        the end-of-text token behind. Segments stand as they are. Messages go through the chat template. Where there is none,
        they get a plain text that is our choice, after Alpaca's: the system's text bare, a user's under "### Instruction:", an
        assistant's under "### Response:" and closed by the end-of-text token, blank lines between.

        Raises:
            InputError: a template that refuses the row, or that does not write what a turn says.
        """
        everything = self.settings.loss_on == "all"
        if "prompt" in row:
            found = [self._joined(row["prompt"], row["completion"])]
        elif "segments" in row:
            found = [[Segment(part["text"], part["learned"]) for part in row["segments"]]]
        else:
            found = self._conversation(self._asked(row["messages"]), row["tools"])
        examples = [_merged(Segment(text, trained or everything) for text, trained in example) for example in found]
        if not all(any(segment.trained for segment in example) for example in examples):
            raise InputError("nothing of the row is learned; remove it")
        lengths = [sum(len(segment.text) for segment in example) for example in examples]
        self.letters, self.letters_once = self.letters + sum(lengths), self.letters_once + max(lengths)
        return examples

    def asking(self, question: str, answer: str) -> tuple[str, str]:
        """A question as a conversation's only turn: what stands before an answer's words, and the words.

        Raises:
            InputError: as `segments` does.
        """
        row = {"messages": [message("user", question), message("assistant", answer)], "tools": ""}
        (given, learned), *_ = self.segments(row)
        at = learned.text.rfind(words := answer.strip())
        return given.text + learned.text[:at], words

    def end_of_answers(self) -> str:
        """The token that ends an answer under the template; nothing where it ends none.

        Raises:
            InputError: as `segments` does.
        """
        row = {"messages": [message("user", "question"), message("assistant", "answer")], "tools": ""}
        learned = self.segments(row)[-1][-1].text
        return next((token for token in sorted(self.stops.marks, key=len, reverse=True) if learned.endswith(token)), "")

    def begins_as_asked(self, row: Row) -> bool:
        """Whether the last answer that is learned begins with what the template writes when it asks for one.

        Raises:
            InputError: as `segments` does.
        """
        messages = self._asked(row["messages"])
        number = max(number for number, message in enumerate(messages) if message["learned"])
        fault: InputError | None = None
        for way in ways_for(messages) if self.template else ():
            assert self.template is not None
            talk = Talk(messages, row["tools"], self.template, way)
            try:
                talk.require_whole()
                return bool(talk.told(number).marks) or talk.told(number).text.startswith(talk.asked(number).text)
            except TooSlowError:
                raise
            except InputError as error:
                fault = fault or error
        if fault:
            raise fault
        return True

    def _joined(self, prompt: str, completion: str) -> Example:
        if self.settings.join == "space":
            bare = prompt.rstrip(" ")
            prompt, completion = bare, prompt[len(bare) :] + completion
        return [Segment(prompt, False), Segment(self._closed(completion), True)]

    def _asked(self, messages: Sequence[Message]) -> list[Message]:
        """The conversation up to its last answer that is learned; with `turns` last, that one is the only one."""
        learned = [number for number, turn in enumerate(messages) if turn["learned"]]
        kept = learned[-1:] if self.settings.turns == "last" else learned
        end = len(messages) if self.settings.loss_on == "all" else learned[-1] + 1
        return [message | {"learned": number in kept} for number, message in enumerate(messages[:end])]

    def _closed(self, text: str) -> str:
        # Not twice where the data brings its own. An empty end fits every text, and nothing is added.
        return text if text.endswith(self.stops.own) else text + self.stops.own

    def _conversation(self, messages: Sequence[Message], tools: str) -> list[Example]:
        if self.template is None:
            return [self._plain(messages, tools)]
        if found := self._shortcut(messages, tools):
            return found
        faults: list[InputError] = []
        for way in ways_for(messages):
            try:
                return self._templated(Talk(messages, tools, self.template, way))
            except TooSlowError:
                raise
            except InputError as error:
                faults.append(error)
        # The way that came furthest says what is wrong: all contents written, but not what stood beside them.
        raise max(faults, key=lambda fault: isinstance(fault, NotWrittenError) + getattr(fault, "beside", False))

    def _shortcut(self, messages: Sequence[Message], tools: str) -> list[Example]:
        """The examples by their skeleton, where it tells them; else nothing."""
        assert self.template is not None
        if tools or self._looked_for is None or self.settings.loss_on == "all":
            return []
        said = [message["content"] for message in messages]
        bare = [text.strip() for text in said]
        if any(message["more"] for message in messages) or not all(bare) or any(map(self._looked_for.search, said)):
            return []
        shape = tuple((message["role"], message["learned"]) for message in messages)
        if shape not in self._skeletons:
            self._skeletons[shape] = self._skeleton(marked(messages))
        found = []
        for one in self._skeletons[shape]:
            written = self.template.render(messages[: one.turns], "", False, Way()).text
            # As it is said, or without the blanks around it, which many templates leave out.
            words = next((words for words in (said, bare) if filled(one.whole, words) == written), None)
            if words is None or (words != bare and not one.ended):
                return []
            found.append([Segment(filled(parts, words), trained) for parts, trained in one.segments])
        return found

    def _skeleton(self, messages: Sequence[Message]) -> "list[_Skeleton]":
        """How the template writes conversations of this shape; nothing where that depends on more than the shape."""
        assert self.template is not None
        talk = Talk(messages, "", self.template, Way())
        learned = [number for number, turn in enumerate(messages) if turn["learned"]]
        try:
            examples = self._templated(talk)
            if any(talk.told(n).marks or not talk.told(n).text.startswith(talk.asked(n).text) for n in learned):
                return []
        except TooSlowError:
            raise
        except InputError:  # said when the conversation itself is written
            return []
        numbers = learned if len(examples) > 1 else learned[-1:]
        return [
            _Skeleton(number + 1, pattern(talk.told(number).text), [(pattern(text), trained) for text, trained in example],
                      all(self._turn(talk, n).ended for n in learned))
            for example, number in zip(examples, numbers, strict=True)
        ]  # fmt: skip

    def _plain(self, messages: Sequence[Message], tools: str) -> Example:
        if tools or (lost := next((name for message in messages for name in ("reasoning_content", "tool_calls")
                                   if f'"{name}"' in message["more"]), "")):  # fmt: skip
            what = "tools" if tools else lost
            raise InputError(
                f"the tokenizer has no chat template, and a plain text has no place for `{what}`; give `chat_template`"
            )
        found = []
        for position, turn in enumerate(messages):
            answer = turn["role"] == "assistant"
            # A heading is never learnt: it is what a model is given to ask for the answer.
            found.append(Segment("\n\n" * (position > 0) + HEADINGS[turn["role"]], False))
            found.append(Segment(self._closed(turn["content"]) if answer else turn["content"], turn["learned"]))
        return found

    def _templated(self, talk: Talk) -> list[Example]:
        """Every answer as the model will be asked for it.

        Each answer takes two renderings: of the turns before it, asking for it, and of the turns up to and with it. What they
        share is given, the rest of the second is learned up to the token that stops generation. Where asking writes more than
        answers begin with, such as an empty thought, the learned part begins where the two part. A template that marks what the
        model says, by `{% generation %}`, is believed instead.

        A template that keeps what it has written gives one example with all turns. One that rewrites earlier turns, as those of
        reasoning models do, or that ends no answer but by what follows, gives an example for each answer: no single text has
        all of them as they are asked for.
        """
        talk.require_whole()
        if self.settings.loss_on == "all":
            return [[Segment(talk.told(len(talk.messages) - 1).text, True)]]
        turns = [self._turn(talk, number) for number, message in enumerate(talk.messages) if message["learned"]]
        return self._one_text(turns) or [[*turn.parts, *self._end(turn)] for turn in turns]

    def _turn(self, talk: Talk, number: int) -> Turn:
        message, told, asked = talk.messages[number], talk.told(number), talk.asked(number)
        require_written(message, number, told.text, learned=True)
        said, before = spoken(message["content"]), talk.before(number)
        by_marks = marked_turn(told, len(asked.marks), self.stops)
        if by_marks and said in "".join(part.text for part in by_marks.parts if part.trained):
            return by_marks
        given, answer = talk.divided(number)
        # What ends the answer stands behind its words, and those behind its thought; words may begin in what is given.
        thought = max((answer.rfind(part) + len(part) for part in talk.thoughts(number) if part in answer), default=0)
        at = answer.find(said, thought)
        words = (at if at >= 0 else (given + answer).rfind(said) - len(given)) + len(said)
        if words < 0 or (said and not words) or before not in given:
            raise InputError(f"the chat template does not write turn {number} behind turn {number - 1}; use another template")
        end = self.stops.end(answer, words)
        if end < 0 and not answer[words:].strip():
            answer = answer[:words]
        return Turn([Segment(given, False), Segment(answer if end < 0 else answer[:end], True)], ended=end >= 0)

    def _one_text(self, turns: Sequence[Turn]) -> list[Example]:
        """All turns as one example; nothing if they do not fit into one text."""
        found: Example = []
        done, ended = "", True
        for turn in turns:
            given = turn.parts[0].text
            if not given.startswith(done):
                return []
            rest = given[len(done) :]
            if not ended:
                # What the next speaker's turn begins with may be what stops the model.
                if not (stop := self.stops.opening(rest)):
                    return []
                found.append(Segment(stop, True))
                rest = rest[len(stop) :]
            found += [Segment(rest, False), *turn.parts[1:]]
            done, ended = "".join(part.text for part in turn.parts), turn.ended
        return [[*found, *self._end(turns[-1])]]

    def _end(self, turn: Turn) -> Example:
        """The model's own end, for an answer that the template does not end."""
        if turn.ended or not self.stops.own:
            return []
        self.ended = True
        return [Segment(self.stops.own, True)]


class _Skeleton(NamedTuple):
    """An example of one shape of conversations."""

    turns: int
    """Up to and with which of the messages it goes."""
    whole: Pattern
    """What the template writes of them."""
    segments: list[tuple[Pattern, bool]]
    ended: bool
    """Whether the template ends all answers."""


def _merged(found: Iterable[Segment]) -> Example:
    whole = (segment for segment in found if segment.text)
    return [
        Segment("".join(part.text for part in group), trained) for trained, group in groupby(whole, lambda part: part.trained)
    ]
