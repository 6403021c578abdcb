"""A training file in two parts."""

from pathlib import Path

import pandas as pd

from spectra import InputError
from spectra.core.files import write_atomic
from trainer.data.dataset import load_rows

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
    rows = load_rows(file)
    if len(rows) < 2 / SHARE:
        raise InputError(f"{file}: {len(rows)} examples are too few to keep a tenth for validation")
    # A fixed seed, so that every learning rate of a sweep, and a study that continues, sees the same parts.
    parts = rows.train_test_split(test_size=SHARE, seed=0)
    train, held = parts["train"].to_pandas(), parts["test"].to_pandas()
    if "label" in train:  # a label that is nowhere else cannot be held back
        unseen = ~held["label"].isin(train["label"])
        train, held = pd.concat([train, held[unseen]]), held[~unseen]
    for path, part in zip(paths, (train, held), strict=True):
        write_atomic(path, part.to_json(orient="records", lines=True))
    return paths
