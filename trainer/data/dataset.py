"""Dataset files -> tokenised examples.

The columns of a file say which format it has (`trainer.formats`) and so whether it is classification or language modelling.
Reading and memory mapping are the datasets library's; what is ours is saying precisely what is wrong with a file.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import numpy as np
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from spectra import InputError
from trainer.data.formats import FORMATS, LossOn, csv_options, detect, encode
from trainer.data.packing import CausalCollator, pack_rows

TaskKind = Literal["classification", "causal"]
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
BATCH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One dataset file, read and checked but not tokenised."""

    path: Path
    rows: Any
    """A datasets.Dataset of canonical rows, and in `row` the number that each had in the file, from 1."""
    format: str | None = None
    """Name in `trainer.formats.FORMATS` of what the file's columns are; None where a caller has not passed it on."""

    @property
    def kind(self) -> TaskKind:
        """What the columns say the file is for."""
        return "classification" if "label" in self.rows.column_names else "causal"

    @property
    def labels(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.rows["label"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Token ids, ready to be collated."""

    kind: TaskKind
    rows: Any
    """A datasets.Dataset with `input_ids`, `attention_mask` and `labels`: a class id, or per token its id or -100 for no loss.
    Packed rows have `position_ids` and no `attention_mask`."""
    truncated: int
    """How many texts were longer than the maximum length and lost their end."""
    dropped: int = 0
    """How many texts are not among the rows because they had no token to learn from, before or after losing their end."""

    @property
    def packed(self) -> bool:
        """Whether a row holds several examples."""
        return "position_ids" in self.rows.column_names


def read_texts(path: str | Path) -> Texts:
    """Read a dataset file: .jsonl, .json, .csv or .parquet.

    Raises:
        InputError: missing, empty or malformed file (with the line), columns that fit no format, or a row that does not fit its.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty file, no examples")
    rows = load_rows(path)
    if len(rows) == 0:
        raise InputError(f"{path}: no examples")
    try:
        name = detect(rows.column_names)
    except InputError as fault:
        raise InputError(f"{path}: {fault}") from None
    return Texts(path=path, rows=_canonical(rows, path, name), format=name)


def _canonical(rows: Any, path: Path, name: str) -> Any:
    # The library's cache knows a function by its name alone and would return what an older version of ours had made.
    features = datasets.Features(FORMATS[name].becomes | {"row": datasets.Value("int64")})
    options = {"remove_columns": rows.column_names, "features": features, "load_from_cache_file": False}
    return rows.map(_checked, with_indices=True, fn_kwargs={"path": str(path), "name": name}, **options)


def _checked(row: Any, index: int, path: str, name: str) -> dict[str, Any]:
    try:
        return FORMATS[name].canonical(row) | {"row": index + 1}
    except InputError as fault:
        raise InputError(f"{path}: row {index + 1}: {fault}") from None


def load_rows(path: Path) -> Any:
    """Read a dataset file as it is.

    Raises:
        InputError: a file that the reader cannot make sense of, with the line where that can be told.
    """
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        options = csv_options(path) if path.suffix == ".csv" else {}
        return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train", **options)
    except InputError:
        raise
    except (datasets.exceptions.DatasetGenerationError, StopIteration, ValueError) as error:
        raise InputError(_what_is_wrong(path, error)) from None


def _what_is_wrong(path: Path, error: Exception) -> str:
    """The first bad line of a JSON-lines file, or what the reader said."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                record = json.loads(line) if line.strip() else {}
            except UnicodeDecodeError as fault:
                return f"{path}:{number}: not UTF-8 text (byte {fault.start} of the line)"
            except ValueError as fault:
                return f"{path}:{number}: not JSON: {fault}"
            if not isinstance(record, dict):
                return f"{path}:{number}: expected an object, one example, found {type(record).__name__}"
    reason = str(error.__cause__ or error).strip() or "no examples"
    return f"{path}: no examples" if "no data" in reason else f"{path}: cannot be read: {reason.splitlines()[0]}"


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
    if packing and texts.kind == "classification":
        raise InputError(f"{texts.path}: classification cannot be packed, its texts have one label each; train without packing")
    if labels:
        return _classified(texts, tokenizer, max_length, labels)
    plain = "text" in texts.rows.column_names
    encoded = list(_plain(texts, tokenizer, max_length) if plain else _answers(texts, tokenizer, max_length, loss_on))
    kept = [example for example in encoded if (example.labels[1:] != -100).any()]
    if not kept:
        raise InputError(f"{texts.path}: no example has a token to learn from within max_length {max_length}; raise it")
    columns = {"input_ids": [example.ids for example in kept], "labels": [example.labels for example in kept]}
    rows = datasets.Dataset.from_dict(columns | {"attention_mask": [np.ones_like(example.ids) for example in kept]})
    truncated = sum(example.cut for example in encoded)
    examples = Examples(kind="causal", rows=rows, truncated=truncated, dropped=len(encoded) - len(kept))
    return pack(examples, max_length) if packing else examples


class _Encoded(NamedTuple):
    """Token ids and labels of an example, int32 arrays, and whether it lost tokens."""

    ids: Any
    labels: Any
    cut: bool


def _classified(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, labels: Sequence[str]) -> Examples:
    ids = {label: position for position, label in enumerate(labels)}
    _require_known(texts, ids)
    full = tokenizer(list(texts.rows["text"]), truncation=True, max_length=max_length, return_overflowing_tokens=False)
    truncated = sum(_lost(list(texts.rows["text"]), full["input_ids"], tokenizer, max_length))
    targets = [ids[label] for label in texts.rows["label"]]
    columns = {"input_ids": full["input_ids"], "attention_mask": full["attention_mask"], "labels": targets}
    return Examples(kind="classification", rows=datasets.Dataset.from_dict(columns), truncated=truncated)


def _require_known(texts: Texts, ids: dict[str, int]) -> None:
    if texts.kind != "classification":
        raise InputError(f"{texts.path}: no column 'label', but the task is classification")
    for number, label in zip(texts.rows["row"], texts.rows["label"], strict=True):
        if label not in ids:
            raise InputError(f"{texts.path}: row {number}: label {label!r} is unknown to the run; it knows {', '.join(ids)}")


def _lost(texts: list[str], ids: list[list[int]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[bool]:
    """For each text whether cutting took tokens; only those of exactly the maximum length are in doubt."""
    doubtful = [position for position, tokens in enumerate(ids) if len(tokens) == max_length]
    whole = tokenizer([texts[position] for position in doubtful], verbose=False)["input_ids"] if doubtful else []
    longer = {position for position, tokens in zip(doubtful, whole, strict=True) if len(tokens) > max_length}
    return [position in longer for position in range(len(texts))]


def _plain(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[_Encoded]:
    for batch in texts.rows.iter(BATCH):
        full = tokenizer(batch["text"], truncation=True, max_length=max_length)["input_ids"]
        cuts = _lost(batch["text"], full, tokenizer, max_length)
        for number, tokens, cut in zip(batch["row"], full, cuts, strict=True):
            if len(tokens) < 2 and not cut:
                raise InputError(f"{texts.path}: row {number}: a text of {len(tokens)} token has nothing to predict; remove it")
            ids = np.asarray(tokens, dtype=np.int32)
            yield _Encoded(ids, ids, cut)


def _answers(texts: Texts, tokenizer: PreTrainedTokenizerBase, max_length: int, loss_on: LossOn) -> Iterator[_Encoded]:
    for batch in texts.rows.iter(BATCH):
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        try:
            for ids, labels in encode(rows, tokenizer, loss_on):
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
    if examples.kind == "classification" or examples.packed:
        raise InputError(f"{'packed' if examples.packed else examples.kind} examples cannot be packed; pack causal ones, once")
    return replace(examples, rows=pack_rows(examples.rows, max_length))


def mix(parts: Sequence[Examples], weights: Sequence[float] | None, seed: int) -> Examples:
    """Make one set of examples of several, for a run on several files.

    Args:
        parts: all classification over the same labels, or all causal; all packed or none.
        weights: how often to draw from each, in proportion, until each has been used up once; shorter ones repeat. Without
            weights the parts follow one another, and each example comes once.
        seed: of the draws.

    Raises:
        InputError: no parts, parts that differ in kind or packing, or weights that do not fit them.
    """
    _require_alike(parts)
    if weights is None:
        rows = datasets.concatenate_datasets([part.rows for part in parts])
    else:
        _require_weights(weights, len(parts))
        shares = [weight / math.fsum(weights) for weight in weights]
        options = {"probabilities": shares, "stopping_strategy": "all_exhausted", "seed": seed}
        rows = datasets.interleave_datasets([part.rows for part in parts], **options)
    truncated, dropped = sum(part.truncated for part in parts), sum(part.dropped for part in parts)
    return Examples(kind=parts[0].kind, rows=rows, truncated=truncated, dropped=dropped)


def _require_alike(parts: Sequence[Examples]) -> None:
    if not parts:
        raise InputError("a mixture needs at least one file; found none")
    if len(kinds := sorted({part.kind for part in parts})) > 1:
        raise InputError(f"a mixture must be of one kind; found {' and '.join(kinds)}")
    if len({part.packed for part in parts}) > 1:
        raise InputError("a mixture of packed and unpacked examples; pack all or none")


def _require_weights(weights: Sequence[float], parts: int) -> None:
    if len(weights) != parts:
        raise InputError(f"{len(weights)} weights for {parts} files; give one each")
    if bad := [weight for weight in weights if not (math.isfinite(weight) and weight > 0)]:
        raise InputError(f"weight {bad[0]} of a mixture; every weight must be positive and finite")


def collator(kind: TaskKind, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Pads a list of examples to the longest, and token labels with -100; keeps packed examples apart."""
    return DataCollatorWithPadding(tokenizer) if kind == "classification" else CausalCollator(tokenizer)


def batches(examples: Examples, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[dict[str, Tensor]]:
    """All examples once, the longest first, so that a batch pads little and memory peaks at the start."""
    collate = collator(examples.kind, tokenizer)
    lengths = [len(tokens) for tokens in examples.rows["input_ids"]]
    ranking = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    for start in range(0, len(ranking), size):
        yield dict(collate([examples.rows[position] for position in ranking[start : start + size]]))
