"""Examples that are longer than a run's: what they lose is what the answer needs least, and never the answer."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from spectra import InputError
from trainer.data.chat.talk import Example, Segment
from trainer.data.chat.template import TooSlowError
from trainer.data.chat.writer import Writer
from trainer.data.formats import Row
from trainer.data.formats.messages import Message
from trainer.data.joints import token_ids

ASIDE = ("system", "developer")


class Encoded(NamedTuple):
    """A tokenised example."""

    ids: list[int]
    labels: list[int]
    """The ids where the loss counts, else -100."""
    cut: bool = False
    """Whether it lost something."""


def labelled(example: Sequence[Segment], parts: Sequence[list[int]], lead: Sequence[int], *, everything: bool) -> Encoded:
    """Join an example's tokens.

    Args:
        example: its segments.
        parts: their token ids.
        lead: the tokens before a text, which are learned only where everything is.
        everything: whether the loss counts everything.
    """
    # The very first label is never predicted, whatever it is; the models shift labels by one.
    ids, labels = list(lead), list(lead) if everything else [-100] * len(lead)
    for segment, part in zip(example, parts, strict=True):
        ids += part
        labels += part if segment.trained else [-100] * len(part)
    return Encoded(ids, labels)


LEFT_OUT = Encoded([], [])


def letters(max_length: int) -> int:
    """Letters of a text that surely make more than `max_length` tokens, as a rule: more are looked at only if they do not."""
    return 32 * max_length + 4096


def is_enough(tokens: int, max_length: int) -> bool:
    """Whether the beginning of a text has given enough tokens: so many more that where it was cut does not show."""
    return tokens > max_length + 64


def fitted(row: Row, writer: Writer, lead: Sequence[int], max_length: int) -> Iterator[Encoded]:
    """The examples of a row of which one is too long, each cut to `max_length`; those whose answers do not fit are left out.

    A conversation loses its oldest turns, but not the system's, and then the front of its last question; a prompt its front.

    Args:
        row: canonical.
        writer: of the run.
        lead: the tokens before a text.
        max_length: in tokens.
    """
    for part in _parts(row, writer):
        fit = _conversation if "messages" in part else _without_front
        yield fit(part, writer, lead, max_length) or LEFT_OUT


def _parts(row: Row, writer: Writer) -> list[Row]:
    """A row for every example that the row gives."""
    examples = writer.segments(row)
    if len(examples) == 1:
        return [row]
    messages = row["messages"]
    learned = [number for number, message in enumerate(messages) if message["learned"]]
    return [{**row, "messages": [_only(message, at == number) for at, message in enumerate(messages[: number + 1])]}
            for number in learned]  # fmt: skip


def _only(message: Message, learned: bool) -> Message:
    return message | {"learned": message["learned"] and learned}


def _encoded(example: Example, writer: Writer, lead: Sequence[int]) -> Encoded:
    parts = next(token_ids([example], writer.tokenizer))
    return labelled(example, parts, lead, everything=writer.settings.loss_on == "all")


def _conversation(row: Row, writer: Writer, lead: Sequence[int], max_length: int) -> Encoded | None:
    """The conversation from the oldest turn on with which it fits; None where not even the last question does as it is."""
    messages: Sequence[Message] = row["messages"]
    aside = next((number for number, message in enumerate(messages) if message["role"] not in ASIDE), 0)
    last = max(number for number, message in enumerate(messages) if message["learned"])
    begins = [number for number in range(aside, last) if messages[number]["role"] == "user"]

    def attempt(start: int) -> Encoded | None:
        kept = [*messages[:aside], *messages[start:]]
        if sum(len(message["content"]) for message in kept) > letters(max_length) * 4:
            return None
        try:
            (example,) = writer.segments({**row, "messages": kept})
        except TooSlowError:
            raise
        except (InputError, ValueError):  # a template may not take what remains
            return None
        found = _encoded(example, writer, lead)
        return found._replace(cut=True) if len(found.ids) <= max_length else None

    # What is found by halving: conversations get shorter with every turn that goes.
    best, low, high = None, 0, len(begins) - 1
    while low <= high:
        middle = (low + high) // 2
        if tried := attempt(begins[middle]):
            best, high = tried, middle - 1
        else:
            low = middle + 1
    return best or _shorter_question(row, messages, aside, begins, writer, lead, max_length)


def _shorter_question(
    row: Row, messages: Sequence[Message], aside: int, begins: Sequence[int], writer: Writer, lead: Sequence[int], max_length: int
) -> Encoded | None:
    """The last question and its answer, with as much of the question's end as fits."""
    if not begins:
        return None  # a conversation without a question
    at = begins[-1]
    question = messages[at]["content"][-letters(max_length) :]
    while question:
        kept = [*messages[:aside], messages[at] | {"content": question}, *messages[at + 1 :]]
        try:
            (example,) = writer.segments({**row, "messages": kept})
        except TooSlowError:
            raise
        except (InputError, ValueError):
            return None
        found = _encoded(example, writer, lead)
        over = len(found.ids) - max_length
        if over <= 0:
            return found._replace(cut=True)
        tokens = len(next(token_ids([[Segment(question, False)]], writer.tokenizer))[0])
        # At least one letter for each token too many; more where tokens are longer, but not so many that too much goes.
        question = question[max(over, over * len(question) // (2 * max(tokens, 1))) :].lstrip()
    return None


def _without_front(row: Row, writer: Writer, lead: Sequence[int], max_length: int) -> Encoded | None:
    """The example without the front of what is given; None where its answer alone is too long."""
    # Also where everything is learned, the prompt's front goes.
    answers = Writer(writer.tokenizer, writer.settings.model_copy(update={"loss_on": "completion"}))
    (example,) = answers.segments(row)
    most = letters(max_length)
    # Of a prompt of megabytes only the end is looked at.
    short = [segment if segment.trained else segment._replace(text=segment.text[-most:]) for segment in example]
    found = _encoded(short, answers, [])
    over = len(found.ids) + len(lead) - max_length
    first = next(at for at, label in enumerate(found.labels) if label != -100)
    if over >= max(first, 1):
        return None
    ids = [*lead, *found.ids[over:]]
    labels = ids if writer.settings.loss_on == "all" else [-100] * len(lead) + found.labels[over:]
    return Encoded(ids, labels, cut=True)
