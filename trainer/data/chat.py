"""Rows with a prompt or messages, written out as text and tokenised, with a label where the loss counts."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from spectra import InputError
from spectra.core.errors import first_line
from trainer.data.bounded import TakesTooLongError, bounded
from trainer.data.formats import Message, Row
from trainer.settings import LossOn

HEADINGS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}


class Segment(NamedTuple):
    """A stretch of an example's text."""

    text: str
    trained: bool
    """Whether the loss counts its tokens."""


def segments(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> list[list[Segment]]:
    """Write out a canonical row with `prompt` or `messages`, as one example or as several.

    In each, neighbours differ in `trained`, and no text is empty. A prompt and its completion are joined as they are, with the
    end-of-text token behind. Messages go through the tokenizer's chat template. Where it has none, they get a plain text that is
    our choice, after Alpaca's: the system's text bare, a user's under "### Instruction:", an assistant's under "### Response:"
    and closed by the end-of-text token, blank lines between.

    Args:
        row: what a format's `canonical` returned.
        tokenizer: whose chat template and end-of-text token are used.
        loss_on: the completion or the assistant's turns, or everything.

    Raises:
        InputError: a template that refuses the row, or that does not write what a turn says.
    """
    if "messages" not in row:
        found = [[Segment(row["prompt"], False), Segment(_closed(row["completion"], tokenizer), True)]]
    elif not tokenizer.chat_template:
        found = [_plain(row["messages"], tokenizer)]
    elif loss_on == "all":
        found = [[Segment(_render(row["messages"], tokenizer, False), True)]]
    else:
        found = _templated(row["messages"], tokenizer)
    examples = [_merged(Segment(text, trained or loss_on == "all") for text, trained in example) for example in found]
    if not all(any(segment.trained for segment in example) for example in examples):
        raise InputError("the tokenizer's chat template writes nothing of the assistant's turns; use another tokenizer")
    return examples


def _merged(found: Iterable[Segment]) -> list[Segment]:
    whole = (segment for segment in found if segment.text)
    return [
        Segment("".join(part.text for part in group), trained) for trained, group in groupby(whole, lambda part: part.trained)
    ]


def _closed(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    end = tokenizer.eos_token or ""
    # Not twice where the data brings its own. An empty `end` fits every text, and nothing is added.
    return text if text.endswith(end) else text + end


def _plain(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    found = []
    for position, message in enumerate(messages):
        answer = message["role"] == "assistant"
        # A heading is never learnt: it is what a model is given to ask for the answer.
        found.append(Segment("\n\n" * (position > 0) + HEADINGS[message["role"]], False))
        found.append(Segment(_closed(message["content"], tokenizer) if answer else message["content"], message["learned"]))
    return found


class _Turn(NamedTuple):
    """An assistant's turn as the template writes it."""

    given: str
    """What stands before the answer when the model is asked for it."""
    answer: str
    learned: bool
    said: str
    """What the answer says; behind it stands what ends it."""

    def stopped(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The answer with an end: the model's end-of-text token where the template writes none, or it would never stop."""
        tail = self.answer.rpartition("</think>")[2]
        found, _, behind = tail.partition(self.said) if self.said else (tail, "", tail)
        # Where the words are not found, they begin in what was given, and nothing can be read off the rest.
        endless = not behind.strip() and found != tail
        return _closed(self.answer, tokenizer) if endless else self.answer


def _templated(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[list[Segment]]:
    """Every answer as the model will be asked for it.

    Few templates mark the assistant's turns themselves, which `return_assistant_tokens_mask` would need. So each answer takes two
    renderings: of the turns before it, asking for it, and of the turns up to and with it. What they share is given, the rest of
    the second is learned; where asking writes more than answers begin with, such as an empty thought, that is where they part.
    A template that keeps what it has written gives one example with all turns. One that rewrites earlier turns, as those of
    reasoning models do, gives an example for each answer, because no single text has all of them as they are asked for.
    """
    turns = [_turn(messages, position, tokenizer) for position, one in enumerate(messages) if one["role"] == "assistant"]
    whole = _render(messages, tokenizer, False)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            _require_written(message, number, whole)
    found, done = [], ""
    for turn in turns:
        if not turn.given.startswith(done):
            break
        found += [Segment(turn.given[len(done) :], False), Segment(turn.answer, turn.learned)]
        done = turn.given + turn.answer
    else:
        if whole.startswith(done):
            # What the template writes behind the last answer, further turns included, is read and not learned.
            behind = Segment(whole[len(done) :], False)
            found[-1] = found[-1]._replace(text=turns[-1].stopped(tokenizer) if not behind.text else turns[-1].answer)
            return [[*found, behind]]
    return [[Segment(turn.given, False), Segment(turn.stopped(tokenizer), True)] for turn in turns if turn.learned]


def _turn(messages: Sequence[Message], position: int, tokenizer: PreTrainedTokenizerBase) -> _Turn:
    asked = _render(messages[:position], tokenizer, True)
    told = _render(messages[: position + 1], tokenizer, False)
    if messages[position]["learned"]:
        _require_written(messages[position], position, told)
    before = messages[position - 1]["content"].strip() if position else ""
    shared = len(asked) if told.startswith(asked) else _parting(asked, told, before)
    said = messages[position]["content"].rpartition("</think>")[2].strip()
    return _Turn(told[:shared], told[shared:], messages[position]["learned"], said)


def _parting(asked: str, told: str, before: str) -> int:
    """Where two renderings part, at a place where no token is cut in two: behind a line's end or the end of a mark, such as `>`.

    Args:
        asked: ends with what asks for an answer.
        told: has the answer in its place.
        before: the last turn before it, in which no answer begins.
    """
    pairs = enumerate(zip(asked, told, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(asked), len(told)))
    place = max(asked.rfind(mark, 0, same) + 1 for mark in "\n>]")
    return place if place > asked.rfind(before, 0, same) + len(before) else same


def _require_written(message: Message, number: int, text: str) -> None:
    """Refuse a template that leaves out what a turn says, but for a thought that it takes out of an answer.

    Raises:
        InputError: the turn.
    """
    said = message["content"].strip()
    if said not in text and said.rpartition("</think>")[2].strip() not in text:
        raise InputError(
            f"the tokenizer's chat template does not write what turn {number} ({message['role']}) says; use another tokenizer"
        )


def _render(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, asks: bool) -> str:
    try:
        with bounded():
            said = [{"role": one["role"], "content": one["content"]} for one in messages]
            return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=asks))
    except (TakesTooLongError, MemoryError):
        raise InputError("the tokenizer's chat template takes seconds or a gigabyte for one row; use another tokenizer") from None
    # A template is a program, and may fail as one.
    except Exception as error:
        raise InputError(
            f"the tokenizer's chat template refuses the messages: {first_line(error)}; change them or remove the row"
        ) from None


def encode(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, loss_on: LossOn, max_length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of canonical rows with `prompt` or `messages`; a label is -100 where there is no loss.

    A conversation may give several, one after the other.

    Args:
        rows: with their `row` numbers.
        tokenizer: the model's own.
        loss_on: see `segments`.
        max_length: in tokens; of a text that is much longer only the beginning is tokenised, to more tokens than this.

    Raises:
        InputError: what `segments` says, after the number of the row.
    """
    # All rows at once, because a fast tokenizer is fast in batches.
    examples = [(row, example) for row in rows for example in _written(row, tokenizer, loss_on)]
    begun = [_beginning(example, letters(max_length)) for _, example in examples]
    for (row, whole), written, parts in zip(examples, begun, _tokens(begun, tokenizer), strict=True):
        lead = [] if "messages" in row and tokenizer.chat_template else _lead(tokenizer)  # a chat template writes its own
        if written is not whole and not is_enough(sum(map(len, parts)), max_length):
            written, parts = whole, next(_tokens([whole], tokenizer))
        # The very first label is never predicted, whatever it is; the models shift labels by one.
        ids, labels = list(lead), list(lead) if loss_on == "all" else [-100] * len(lead)
        for segment, part in zip(written, parts, strict=True):
            ids += part
            labels += part if segment.trained else [-100] * len(part)
        yield ids, labels


def letters(max_length: int) -> int:
    """Letters of a text that surely make more than `max_length` tokens, as a rule: more are looked at only if they do not."""
    return 32 * max_length + 4096


def is_enough(tokens: int, max_length: int) -> bool:
    """Whether the beginning of a text has given enough tokens: so many more that where it was cut does not show."""
    return tokens > max_length + 64


def _beginning(whole: list[Segment], most: int) -> list[Segment]:
    """The segments up to so many letters; the same list if there are no more."""
    if sum(len(segment.text) for segment in whole) <= most:
        return whole
    found: list[Segment] = []
    for segment in whole:
        if most > 0:
            found.append(segment._replace(text=segment.text[:most]))
        most -= len(segment.text)
    return found


def _written(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> list[list[Segment]]:
    try:
        return segments(row, tokenizer, loss_on)
    except InputError as fault:
        raise InputError(f"row {row['row']}: {fault}") from None


def _lead(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return list(framed[: framed.index(bare[0])] if bare else framed)


def _tokens(found: list[list[Segment]], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[list[int]]]:
    """Token ids of each segment, as they are when the text is tokenised in one piece up to and with the segment.

    Where the tokenizer would melt the end of one segment and the start of the next into one token, the next is tokenised alone:
    a model that is asked to go on from the first never sees that token either.
    """
    # Each row's text up to and with its first, second, ... segment; a segment's tokens are what it adds to those before it.
    grown = ["".join(part.text for part in row[: count + 1]) for row in found for count in range(len(row))]
    # Not verbose, or it warns of texts above the model's length, which are cut later.
    whole = iter(tokenizer(grown, add_special_tokens=False, verbose=False)["input_ids"] if grown else ())
    for row in found:
        parts: list[list[int]] = []
        done: list[int] = []
        for segment in row:
            tokens = next(whole)
            joins = tokens[: len(done)] == done
            parts.append(tokens[len(done) :] if joins else tokenizer(segment.text, add_special_tokens=False)["input_ids"])
            # After one such seam `done` is no beginning of later tokenisations, and every later segment is tokenised alone.
            done = done + parts[-1]
        yield parts
