"""Token ids of text in segments, as they are when the text is tokenised in one piece."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from trainer.data.chat.turns import Segment

SPACE = "▁"  # SentencePiece's
GUARDS = ("\n", "x", ".", "0")


def token_ids(
    examples: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerBase, whole: Sequence[list[int]] | None = None
) -> Iterator[list[list[int]]]:
    """Token ids of every example's segments.

    Where the tokenizer would melt the end of one segment and the start of the next into one token, they are tokenised apart: a
    model that is asked to go on from the first never sees that token either. All other tokens are those of the whole text.

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
    ends = _ends(ids, tokenizer, "".join(texts), starts_text=starts_text)
    if ends is None:
        return _grown(texts, tokenizer)
    parts: list[list[int]] = []
    start = byte = 0
    for number, text in enumerate(texts[:-1]):
        byte += len(text.encode())
        stop = int(np.searchsorted(ends, byte)) + 1
        if stop > len(ends) or ends[stop - 1] != byte:
            # One token reaches across the joint: what stands behind it is tokenised anew, and divided in the same way.
            joined = "".join(texts[: number + 1])
            return _left(texts[: number + 1], joined, tokenizer) + _behind(texts[number + 1 :], tokenizer)
        parts.append(ids[start:stop])
        start = stop
    return [*parts, ids[start:]]


def _left(texts: Sequence[str], joined: str, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return _divided(texts, _ids([joined], tokenizer)[0], tokenizer)


def _behind(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of segments that follow others.

    SentencePiece puts a space of its own before the beginning of a text. Behind a letter that melts with nothing there is none.
    """
    whole = "".join(texts)
    for guard in GUARDS if _adds_space(tokenizer) else ():
        ids = _ids([guard + whole], tokenizer)[0]
        ends = _ends(ids, tokenizer, guard + whole)
        at = -1 if ends is None else int(np.searchsorted(ends, len(guard)))
        if ends is not None and ends[at] == len(guard):
            return _divided(texts, ids[at + 1 :], tokenizer, starts_text=False)
    return _divided(texts, _ids([whole], tokenizer)[0], tokenizer)


@lru_cache(maxsize=4)
def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space before the beginning of a text."""
    bare = tokenizer.convert_ids_to_tokens(tokenizer("x", add_special_tokens=False)["input_ids"][:1])
    return bool(bare) and str(bare[0]).startswith((SPACE, "Ġ"))


def _ends(ids: list[int], tokenizer: PreTrainedTokenizerBase, text: str, *, starts_text: bool = True) -> Any:
    """The byte of the text at which each token ends; None where tokens are not the text's bytes, one after the other.

    Bytes and not the tokenizer's own offsets, some of which leave out the spaces that a token begins with.
    """
    lengths = _lengths(tokenizer)
    if lengths is None or not ids:
        return None
    ends = np.cumsum(lengths[np.asarray(ids)])
    excess = int(ends[-1]) - len(text.encode())
    if excess == 1 and starts_text and _adds_space(tokenizer):
        ends -= 1
        excess = 0
    return ends if excess == 0 else None


def _lengths(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Bytes of every token, or None where tokens do not tell."""
    return _lengths_of(tokenizer, len(tokenizer)) if tokenizer.is_fast else None


@lru_cache(maxsize=4)
def _lengths_of(tokenizer: PreTrainedTokenizerBase, size: int) -> Any:
    model = tokenizer.backend_tokenizer.model
    marks = [getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if type(model).__name__ not in ("BPE", "Unigram") or any(marks):
        return None  # its tokens have letters of their own, or none for spaces
    vocabulary = tokenizer.get_vocab()
    added = {str(token) for token in tokenizer.added_tokens_encoder}
    letters = set(bytes_to_unicode().values())
    plain = [token for token in vocabulary if token not in added]
    bytewise = all(set(token) <= letters for token in plain)
    pieces = any(token.startswith(SPACE) for token in plain)
    if not bytewise and not pieces:
        return None
    found = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        if token in added:
            found[number] = len(token.encode())
        elif bytewise:
            found[number] = len(token)
        else:
            found[number] = 1 if len(token) == 6 and token.startswith("<0x") else len(token.replace(SPACE, " ").encode())
    return found


def _grown(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """As above for any tokenizer, from its tokens of the text up to and with every segment: what each adds to those before."""
    whole = _ids(["".join(texts[: count + 1]) for count in range(len(texts))], tokenizer)
    parts: list[list[int]] = []
    done: list[int] = []
    for number, tokens in enumerate(whole):
        if tokens[: len(done)] != done:
            return [*parts, *_grown(texts[number:], tokenizer)]
        parts.append(tokens[len(done) :])
        done = tokens
    return parts
