"""A training file in two parts."""

import json
import math
from pathlib import Path

import numpy as np

from spectra import InputError
from spectra.core.files import write_atomic
from trainer.data.files import Record, records

SHARE = 0.1  # of every training file, for validation


def split(file: Path, folder: Path, number: int = 0) -> tuple[Path, Path]:
    """Write a training file's two parts as JSON lines, in its own columns.

    Args:
        file: a dataset file.
        folder: where the parts go.
        number: tells the parts of several files apart.

    Returns:
        Nine tenths to train on, a tenth for validation.

    Raises:
        InputError: too few examples.
    """
    paths = folder / f"{number}-train.jsonl", folder / f"{number}-validation.jsonl"
    # The file's own columns, not canonical rows: the parts are read again like any file of the user's.
    rows = list(records(file))
    if len(rows) < 2 / SHARE:
        raise InputError(f"{file}: {len(rows)} examples are too few to keep a tenth for validation")
    # A fixed seed, so that every learning rate of a sweep, and a study that continues, sees the same parts.
    shuffled = [rows[position] for position in np.random.default_rng(0).permutation(len(rows))]
    held, train = shuffled[: math.ceil(SHARE * len(rows))], shuffled[math.ceil(SHARE * len(rows)) :]
    if any("label" in row for row in rows):  # a label that is nowhere else cannot be held back
        seen = {_label(row) for row in train}
        train += [row for row in held if _label(row) not in seen]
        held = [row for row in held if _label(row) in seen]
    for path, part in zip(paths, (train, held), strict=True):
        write_atomic(path, "".join(json.dumps(row, default=str) + "\n" for row in part))
    return paths


def _label(row: Record) -> str:
    return str(row.get("label"))
