"""Token ids of text in segments.

What stands before a learned segment has the ids that it has alone, because that is how a model is asked. Where the whole text is
tokenised in the same way, as it nearly always is, one tokenisation serves for all segments.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from trainer.data.chat.talk import Segment

SPACE = "▁"  # SentencePiece's
GUARDS = ("\n", "x", ".", "0")
KNOWN = 4096  # endings of prompts whose ids are kept


def token_ids(
    examples: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase, whole: Sequence[list[int]] | None = None
) -> Iterator[list[list[int]]]:
    """Token ids of every example's segments.

    Each beginning of the text that ends with a segment has the ids that it has alone. Where the whole text has others, because
    the tokenizer melts the end of one segment with the start of the next, the next is tokenised apart: a model that is asked to
    go on from the first never sees the melted token either. All other tokens are those of the whole text.

    Args:
        examples: segments, none of them empty.
        tokenizer: the model's own.
        whole: the ids of the examples' whole texts, where they are known.
    """
    for example, ids in zip(examples, whole_ids(examples, tokenizer) if whole is None else whole, strict=True):
        yield _divided([segment.text for segment in example], ids, tokenizer)


def whole_ids(examples: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of every example's text in one piece."""
    return _ids(["".join(segment.text for segment in example) for example in examples], tokenizer)


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if backend is None or not hasattr(backend, "encode_batch_fast") or tokenizer.split_special_tokens:
        # Not verbose, or it warns of texts above the model's length, which are cut later.
        return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    # Straight from the backend, without lists of masks and offsets that nobody reads; earlier calls may have left a limit there.
    backend.no_truncation()
    backend.no_padding()
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _divided(
    texts: Sequence[str], ids: list[int], tokenizer: PreTrainedTokenizerBase, *, starts_text: bool = True
) -> list[list[int]]:
    """The ids of a text, divided among its segments."""
    if len(texts) == 1:
        return [ids]
    encoded = [text.encode() for text in texts]
    whole = b"".join(encoded)
    ends = _ends(ids, tokenizer, whole, starts_text=starts_text)
    if ends is None:
        return _grown(texts, tokenizer, starts_text=starts_text)
    parts: list[list[int]] = []
    start = byte = 0
    for number, text in enumerate(encoded[:-1]):
        byte += len(text)
        stop = int(np.searchsorted(ends, byte)) + 1
        if ends[stop - 1] != byte or not _stands_alone(whole[:byte], ids[:stop], ends, tokenizer, starts_text):
            return [*_alone(texts[: number + 1], tokenizer, starts_text), *_alone(texts[number + 1 :], tokenizer, False)]
        parts.append(ids[start:stop])
        start = stop
    return [*parts, ids[start:]]


def _stands_alone(text: bytes, ids: list[int], ends: Any, tokenizer: PreTrainedTokenizerBase, starts_text: bool) -> bool:
    """Whether the beginning of a text has these ids without what follows.

    Tokenizers take a text apart at their added tokens, such as the marks of a chat template. So what stands behind the last one
    decides, which is short and often the same.
    """
    added = _added(tokenizer)
    at = next((at for at in range(len(ids) - 1, -1, -1) if ids[at] in added), -1)
    if at < 0:
        return _alone_ids(text.decode(), tokenizer, starts_text) == ids
    tail = text[int(ends[at - 1]) if at else 0 :].decode()
    return _ids_of_tail(tokenizer, tail) == tuple(ids[at:])


@lru_cache(maxsize=4)
def _added(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    # Those that take the blanks beside them, or stand only between blanks, do not take a text apart as it stands.
    return frozenset(
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    )


@lru_cache(maxsize=KNOWN)
def _ids_of_tail(tokenizer: PreTrainedTokenizerBase, tail: str) -> tuple[int, ...]:
    return tuple(_ids([tail], tokenizer)[0])


def _alone(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, starts_text: bool) -> list[list[int]]:
    """Ids of some segments without those before or behind them."""
    return _divided(texts, _alone_ids("".join(texts), tokenizer, starts_text), tokenizer, starts_text=starts_text)


def _alone_ids(text: str, tokenizer: PreTrainedTokenizerBase, starts_text: bool) -> list[int]:
    """Ids of a text, or of one that follows another.

    SentencePiece puts a space of its own before the beginning of a text. Behind a letter that melts with nothing there is none.
    """
    for guard in GUARDS if not starts_text and _adds_space(tokenizer) else ():
        ids, before = _ids([guard + text, guard], tokenizer)
        if ids[: len(before)] == before:
            return ids[len(before) :]
    return _ids([text], tokenizer)[0]


@lru_cache(maxsize=4)
def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space before the beginning of a text."""
    bare = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False)["input_ids"][:1])
    return bool(bare) and str(bare[0]).startswith((SPACE, "Ġ"))


def _ends(ids: list[int], tokenizer: PreTrainedTokenizerBase, text: bytes, *, starts_text: bool) -> Any:
    """The byte of a text at which each token ends; None where tokens are not the text's bytes, one after the other.

    Bytes and not the tokenizer's own offsets, some of which leave out the spaces that a token begins with.
    """
    known = _bytes(tokenizer) if tokenizer.is_fast else None
    if known is None or not ids:
        return None
    written = b"".join([known.bytes[number] for number in ids])
    if written != text and not (starts_text and written == b" " + text):
        return None
    return np.cumsum(known.lengths[np.asarray(ids)]) - (len(written) - len(text))


class _Tokens(NamedTuple):
    """What a vocabulary's tokens are, by their ids."""

    bytes: list[bytes]
    lengths: Any


@lru_cache(maxsize=4)
def _bytes(tokenizer: PreTrainedTokenizerBase) -> _Tokens | None:
    """The bytes of every token, or None where tokens do not tell."""
    model = tokenizer.backend_tokenizer.model
    marks = [getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if type(model).__name__ not in ("BPE", "Unigram") or any(marks):
        return None  # its tokens have letters of their own, or none for spaces
    vocabulary = tokenizer.get_vocab()
    added = {str(token) for token in tokenizer.added_tokens_encoder}
    byte_of = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
    bytewise = all(letter in byte_of for token in vocabulary if token not in added for letter in token)
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if token in added:
            found[number] = token.encode()
        elif bytewise:
            found[number] = b"".join(byte_of[letter] for letter in token)
        elif len(token) == 6 and token.startswith("<0x"):
            found[number] = bytes.fromhex(token[3:5])
        else:
            found[number] = token.replace(SPACE, " ").encode()
    return _Tokens(found, np.array([len(token) for token in found]))


def _grown(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, starts_text: bool) -> list[list[int]]:
    """As above for any tokenizer, from its tokens of the text up to and with every segment: what each adds to those before."""
    parts: list[list[int]] = []
    done: list[int] = []
    for number in range(len(texts)):
        tokens = _alone_ids("".join(texts[: number + 1]), tokenizer, starts_text)
        if tokens[: len(done)] != done:
            return [*parts, *_grown(texts[number:], tokenizer, starts_text=False)]
        parts.append(tokens[len(done) :])
        done = tokens
    return parts
