"""Texts -> token ids and labels."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import jinja2
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from spectra import InputError
from spectra.core.distributed import is_main_process
from spectra.core.log import LOG
from trainer.data.chat.talk import Example
from trainer.data.chat.writer import Writer
from trainer.data.examples import Examples, Texts
from trainer.data.fitting import Encoded, fitted, is_enough, labelled, letters
from trainer.data.formats import Row
from trainer.data.joints import token_ids, whole_ids
from trainer.data.packing import pack_rows
from trainer.data.storage import batches_of, stored
from trainer.settings import DataSettings

LOOKED_AT = 256  # rows of which it is found out whether the tokenizer melts prompts with completions
_told: set[Path] = set()  # files of which it has been said; a study tokenises each in every run


def tokenise(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: Sequence[str] = (),
    *,
    settings: DataSettings | None = None,
    packing: bool = False,
) -> Examples:
    """Turn texts into token ids, at most `max_length` each.

    Args:
        texts: what `read_texts` returned.
        tokenizer: the model's own.
        max_length: in tokens. Of longer conversations the oldest turns are left out, of longer prompts the front, of longer
            texts the end; an answer that is longer on its own is left out.
        labels: the run's labels, whose positions become class ids; none for causal language modelling.
        settings: what of a row the loss counts, and how conversations are written; of a plain text it counts everything.
        packing: put several examples into one row; see `pack`.

    Raises:
        InputError: a label that the run does not know, packing for classification, a text or a conversation that cannot be
            tokenised, or no example with a token to learn from.
    """
    settings = settings or DataSettings()
    if packing and texts.task == "classification":
        raise InputError(f"{texts.path}: classification cannot be packed, its texts have one label each; train without packing")
    if labels:
        return _classified(texts, tokenizer, max_length, labels)
    _tell_of_seams(texts, tokenizer, settings)
    writer = Writer(tokenizer, settings)
    made = _plain if "text" in texts.rows.column_names else _answers
    found = stored(_key(texts, writer, max_length), lambda: made(texts, writer, max_length))
    _tell(texts, writer, found.made)
    if not len(found.rows):
        raise InputError(f"{texts.path}: no example has an answer that fits into `max_length` {max_length}; raise it")
    examples = Examples(task="causal", rows=found.rows, truncated=found.truncated, dropped=found.dropped)
    return pack(examples, max_length) if packing else examples


def _key(texts: Texts, writer: Writer, max_length: int) -> str:
    """Everything that tokens depend on; nothing for a tokenizer that cannot be told from others."""
    tokenizer = writer.tokenizer
    if not tokenizer.is_fast:
        return ""
    asked = writer.settings.model_dump(
        mode="json", exclude={"max_length", "columns", "role_map", "template_date", "chat_template"}
    )
    parts = [
        _code(), texts.rows._fingerprint, texts.format, tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template,
        tokenizer.special_tokens_map, sorted(writer.stops.all), asked, writer.day, max_length,
    ]  # fmt: skip
    return json.dumps(parts, sort_keys=True, default=str)


@cache
def _code() -> str:
    """A hash of what makes tokens: this folder, and the libraries that render and tokenise. Another release makes them anew."""
    whole = hashlib.sha256(repr((transformers.__version__, tokenizers.__version__, jinja2.__version__)).encode())
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _tell(texts: Texts, writer: Writer, made: int) -> None:
    if not is_main_process():
        return
    if made > len(texts.rows):
        longer = f", {writer.letters / writer.letters_once:.1f} times the text" if writer.letters else ""
        LOG.info(
            f"{texts.path}: the chat template writes earlier turns otherwise than the last, so each answer of"
            f" {len(texts.rows):,} conversations is an example of its own, {made:,} in all{longer}; `turns` last learns the last"
            " alone"
        )
    if writer.template and "messages" in texts.rows.column_names and not writer.template.asks and texts.path not in _told:
        _told.add(texts.path)
        LOG.warning(
            f"{texts.path}: the chat template does not use add_generation_prompt, so a model that is asked has to write the"
            " beginning of its turn itself, and learns to; another template writes it"
        )
    if writer.ended:
        LOG.info(
            f"{texts.path}: the chat template writes no end behind some answers; the model's own, {writer.stops.own!r}, is"
            " learned there"
        )


def _tell_of_seams(texts: Texts, tokenizer: PreTrainedTokenizerBase, settings: DataSettings) -> None:
    """Say that the tokenizer would melt the ends of prompts with the starts of completions, which are then tokenised apart.

    A prompt that ends in a space is the usual case: the model has learned the space as the start of the next word, and asked
    with the space before it is at a loss.
    """
    if "completion" not in texts.rows.column_names or settings.join == "space":
        return
    rows = texts.rows.select(range(min(LOOKED_AT, len(texts.rows))))
    prompts, answers = list(rows["prompt"]), list(rows["completion"])
    most = [prompt[-letters(1) :] for prompt in prompts]  # what melts is near the seam
    given = {"add_special_tokens": False, "verbose": False}
    whole = tokenizer([prompt + answer[:64] for prompt, answer in zip(most, answers, strict=True)], **given)["input_ids"]
    alone = tokenizer(most, **given)["input_ids"]
    melted = [number for number, (one, part) in enumerate(zip(whole, alone, strict=True)) if one[: len(part)] != part]
    if not melted or not is_main_process() or texts.path in _told:
        return
    _told.add(texts.path)
    end, start = prompts[melted[0]][-8:], answers[melted[0]][:8]
    advice = "; `join` space moves the space to the completion's start" if end.endswith(" ") else ""
    LOG.warning(
        f"{texts.path}: in {len(melted)} of {len(rows)} rows looked at, the prompt's end and the completion's start belong to one"
        f" token ({end!r} + {start!r}) and are learned apart, as no other text has them, first in row"
        f" {rows['row'][melted[0]]}{advice}"
    )


def _classified(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Examples:
    ids = {label: position for position, label in enumerate(labels)}
    _require_known(texts, ids)
    if "pair" in texts.rows.column_names:
        columns, cuts = _pairs(texts, tokenizer, max_length)
    else:
        found, cuts = _cut(list(texts.rows["text"]), tokenizer, max_length)
        columns = {"input_ids": found, "attention_mask": [[1] * len(tokens) for tokens in found]}
    columns["labels"] = [ids[label] for label in texts.rows["label"]]
    return Examples(task="classification", rows=datasets.Dataset.from_dict(columns), truncated=sum(cuts))


def _pairs(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[dict[str, Any], list[bool]]:
    """Two texts in one row, with what tells them apart where the model has it; the longer one is cut first."""
    first, second = list(texts.rows["text"]), list(texts.rows["pair"])
    found = tokenizer(first, second, truncation="longest_first", max_length=max_length, verbose=False)
    whole = tokenizer(first, second, verbose=False)["input_ids"]
    cuts = [len(all_) > len(kept) for all_, kept in zip(whole, found["input_ids"], strict=True)]
    return {name: found[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in found}, cuts


def _require_known(texts: Texts, ids: dict[str, int]) -> None:
    if texts.task != "classification":
        raise InputError(f"{texts.path}: no column 'label', but the task is classification")
    for number, label in zip(texts.rows["row"], texts.rows["label"], strict=True):
        if label not in ids:
            raise InputError(f"{texts.path}: row {number}: label {label!r} is unknown to the run; it knows {', '.join(ids)}")


def _cut(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[list[int]], list[bool]]:
    """Token ids of every text, at most `max_length`, and whether that took tokens."""
    most = letters(max_length)
    begun = [text[:most] for text in texts]
    # Of a text of megabytes only the beginning is tokenised, which takes a hundred times its size in memory.
    if long := [position for position, text in enumerate(texts) if len(text) > most]:
        tried = tokenizer([begun[position] for position in long], verbose=False)["input_ids"]
        for position, tokens in zip(long, tried, strict=True):
            if not is_enough(len(tokens), max_length):
                begun[position] = texts[position]
    ids = tokenizer(begun, truncation=True, max_length=max_length)["input_ids"]
    # Tokenising every text twice only to count would double the time; those of exactly the maximum length are in doubt.
    doubtful = [position for position, tokens in enumerate(ids) if len(tokens) == max_length]
    whole = tokenizer([begun[position] for position in doubtful], verbose=False)["input_ids"] if doubtful else []
    longer = {position for position, tokens in zip(doubtful, whole, strict=True) if len(tokens) > max_length}
    return ids, [position in longer for position in range(len(texts))]


def _plain(texts: Texts, writer: Writer, max_length: int) -> Iterator[Encoded]:
    for rows in batches_of(texts.rows):
        full, cuts = _cut([_without_lead(row["text"], writer.tokenizer) for row in rows], writer.tokenizer, max_length)
        for row, tokens, cut in zip(rows, full, cuts, strict=True):
            # A single token has nothing to predict it. If cutting left only one, that is `max_length`'s fault, and it is left
            # out.
            if len(tokens) < 2 and not cut:
                raise InputError(
                    f"{texts.path}: row {row['row']}: a text of {len(tokens)} token has nothing to predict; remove it"
                )
            yield Encoded(tokens, tokens, cut)


def _without_lead(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text without the token that the tokenizer will put before it."""
    begin = tokenizer.bos_token
    return text.removeprefix(begin) if begin and text.startswith(begin) and lead_of(tokenizer) else text


def lead_of(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    bare, framed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return list(framed[: framed.index(bare[0])] if bare else framed)


def _answers(texts: Texts, writer: Writer, max_length: int) -> Iterator[Encoded]:
    """The examples of rows with prompts, segments or messages, batch by batch, because a fast tokenizer is fast in batches."""
    usual = lead_of(writer.tokenizer)
    # While a batch is tokenised, which takes no Python, the next one is written.
    with ThreadPoolExecutor(1) as beside:
        coming: Future[list[list[int]]] | None = None
        before: _Batch | None = None
        for rows in batches_of(texts.rows):
            written = [_written(texts, row, writer) for row in rows]
            begun = [_beginning(example, letters(max_length)) for examples in written for example in examples]
            done, coming = coming, beside.submit(whole_ids, begun, writer.tokenizer)
            if before and done:
                yield from _fitting(before, done.result(), writer, usual, max_length)
            before = _Batch(rows, written, begun)
        if before and coming:
            yield from _fitting(before, coming.result(), writer, usual, max_length)


class _Batch(NamedTuple):
    rows: list[dict[str, Any]]
    written: list[list[Example]]
    """Each row's examples."""
    begun: list[Example]
    """The beginnings of all of them."""


def _fitting(batch: _Batch, whole: list[list[int]], writer: Writer, usual: list[int], max_length: int) -> Iterator[Encoded]:
    tokens = iter(zip(batch.begun, token_ids(batch.begun, writer.tokenizer, whole), strict=True))
    for row, examples in zip(batch.rows, batch.written, strict=True):
        lead = _lead(row, examples, writer, usual)
        found = [_encoded(example, *next(tokens), writer, lead, max_length) for example in examples]
        if all(one and len(one.ids) <= max_length for one in found):
            yield from (one for one in found if one)
        else:
            yield from fitted(row, writer, lead, max_length)


def _encoded(
    whole: Example, begun: Example, parts: list[list[int]], writer: Writer, lead: list[int], max_length: int
) -> Encoded | None:
    """The example's tokens; None if already its beginning is too long."""
    if begun is not whole:
        if is_enough(sum(map(len, parts)), max_length):
            return None
        parts = next(token_ids([whole], writer.tokenizer))
    return labelled(whole, parts, lead, everything=writer.settings.loss_on == "all")


def _lead(row: Row, examples: Sequence[Example], writer: Writer, usual: list[int]) -> list[int]:
    """The tokens before a row's text: none where a template or the text itself brings them."""
    begin = writer.tokenizer.bos_token
    own = writer.template is not None if "messages" in row else "segments" in row
    return [] if own or (begin and examples[0][0].text.startswith(begin)) else usual


def _beginning(whole: Example, most: int) -> Example:
    """The segments up to so many letters; the same list if there are no more."""
    if sum(len(segment.text) for segment in whole) <= most:
        return whole
    found: Example = []
    for segment in whole:
        if most > 0:
            found.append(segment._replace(text=segment.text[:most]))
        most -= len(segment.text)
    return found


def _written(texts: Texts, row: Row, writer: Writer) -> list[Example]:
    try:
        return writer.segments(row)
    except InputError as fault:
        raise InputError(f"{texts.path}: row {row['row']}: {fault}") from None


def pack(examples: Examples, max_length: int) -> Examples:
    """Put whole examples, in order, into the first row of at most `max_length` tokens that has room.

    Args:
        examples: tokenised with the same or a smaller `max_length`.
        max_length: in tokens.

    Raises:
        InputError: classification, or examples that are packed already.
    """
    if examples.task == "classification" or examples.packed:
        raise InputError(f"{'packed' if examples.packed else examples.task} examples cannot be packed; pack causal ones, once")
    return replace(examples, rows=pack_rows(examples.rows, max_length))
