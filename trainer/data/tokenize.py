"""Texts -> token ids and labels."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from spectra import InputError
from spectra.core.distributed import is_main_process
from spectra.core.log import LOG
from trainer.data.chat import encode, is_enough, letters
from trainer.data.examples import Examples, Texts
from trainer.data.packing import pack_rows
from trainer.settings import LossOn

BATCH = 1000
LOOKED_AT = 256  # rows of which it is found out whether the tokenizer melts prompts with completions
_told: set[Path] = set()  # files of which it has been said; a study tokenises each in every run


def tokenise(
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    labels: Sequence[str] = (),
    *,
    loss_on: LossOn = "completion",
    packing: bool = False,
) -> Examples:
    """Turn texts into token ids, cut at `max_length`.

    Args:
        texts: what `read_texts` returned.
        tokenizer: the model's own.
        max_length: in tokens.
        labels: the run's labels, whose positions become class ids; none for causal language modelling.
        loss_on: of a prompt and completion or a conversation, what the loss counts: the completion or the assistant's turns, or
            everything. Of a plain text it counts everything.
        packing: put several examples into one row; see `pack`.

    Raises:
        InputError: a label that the run does not know, packing for classification, a text or a conversation that cannot be
            tokenised, or no example with a token to learn from.
    """
    if packing and texts.task == "classification":
        raise InputError(f"{texts.path}: classification cannot be packed, its texts have one label each; train without packing")
    if labels:
        return _classified(texts, tokenizer, max_length, labels)
    plain = "text" in texts.rows.column_names
    _tell_of_seams(texts, tokenizer)
    encoded = list(_plain(texts, tokenizer, max_length) if plain else _answers(texts, tokenizer, max_length, loss_on))
    if len(encoded) > len(texts.rows) and is_main_process():
        LOG.info(
            f"{texts.path}: the chat template rewrites earlier turns, so each answer of {len(texts.rows):,} conversations is an"
            f" example of its own, {len(encoded):,} in all"
        )
    # Without the first label, which is shifted away. A mean over no label at all would be NaN.
    kept = [example for example in encoded if (example.labels[1:] != -100).any()]
    if not kept:
        raise InputError(f"{texts.path}: no example has a token to learn from within `max_length` {max_length}; raise it")
    columns = {"input_ids": [example.ids for example in kept], "labels": [example.labels for example in kept]}
    rows = datasets.Dataset.from_dict(columns | {"attention_mask": [np.ones_like(example.ids) for example in kept]})
    truncated = sum(example.cut for example in encoded)
    examples = Examples(task="causal", rows=rows, truncated=truncated, dropped=len(encoded) - len(kept))
    return pack(examples, max_length) if packing else examples


def _tell_of_seams(texts: Texts, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say that the tokenizer would melt the ends of prompts with the starts of completions, which are then tokenised apart.

    A prompt that ends in a space is the usual case: the model has learned the space as the start of the next word, and asked
    with the space before it is at a loss.
    """
    if "completion" not in texts.rows.column_names:
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
    advice = "; move the space from the prompt's end to the completion's start" if end.endswith(" ") else ""
    LOG.warning(
        f"{texts.path}: in {len(melted)} of {len(rows)} rows looked at, the prompt's end and the completion's start belong to one"
        f" token ({end!r} + {start!r}) and are learned apart, as no other text has them{advice}"
    )


class _Encoded(NamedTuple):
    """Token ids and labels of an example, int32 arrays, and whether it lost tokens."""

    ids: Any
    labels: Any
    cut: bool


def _classified(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Examples:
    ids = {label: position for position, label in enumerate(labels)}
    _require_known(texts, ids)
    found, cuts = _cut(list(texts.rows["text"]), tokenizer, max_length)
    targets = [ids[label] for label in texts.rows["label"]]
    columns = {"input_ids": found, "attention_mask": [[1] * len(tokens) for tokens in found], "labels": targets}
    return Examples(task="classification", rows=datasets.Dataset.from_dict(columns), truncated=sum(cuts))


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


def _plain(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[_Encoded]:
    for batch in texts.rows.iter(BATCH):
        full, cuts = _cut(batch["text"], tokenizer, max_length)
        for number, tokens, cut in zip(batch["row"], full, cuts, strict=True):
            # A single token has nothing to predict it. If cutting left only one, that is `max_length`'s fault, and it is left
            # out.
            if len(tokens) < 2 and not cut:
                raise InputError(f"{texts.path}: row {number}: a text of {len(tokens)} token has nothing to predict; remove it")
            ids = np.asarray(tokens, dtype=np.int32)
            yield _Encoded(ids, ids, cut)


def _answers(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, loss_on: LossOn) -> Iterator[_Encoded]:
    for batch in texts.rows.iter(BATCH):
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        try:
            for ids, labels in encode(rows, tokenizer, loss_on, max_length):
                # Cut here and not by the tokenizer, which knows nothing of the labels.
                cut = len(ids) > max_length
                yield _Encoded(np.asarray(ids[:max_length], np.int32), np.asarray(labels[:max_length], np.int32), cut)
        except InputError as fault:
            raise InputError(f"{texts.path}: {fault}") from None


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
