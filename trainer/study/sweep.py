"""A learning rate for every plan of a study, chosen on a part of the training data that the sweep does not train on.

The learning rate moves a result more than the plan does: at one rate for all, a comparison may only tell whom it suits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from spectra import InputError
from spectra.core.documents import write_atomic
from trainer.data.dataset import load_rows
from trainer.report import Evaluation, TrainSettings
from trainer.study.jobs import Job

SHARE = 0.1  # of every training file, for validation
FOLDER = "sweep"


def sweep_jobs(
    plans: Mapping[str, Path],
    model: str,
    data: Sequence[str],
    output: Path,
    settings: TrainSettings,
    rates: Sequence[float],
    threads: int,
) -> Iterator[Job]:
    """Every plan at every learning rate.

    Args:
        plans: name -> file.
        model: the base.
        data: training files; they are split here.
        output: the study's folder.
        settings: of all runs; the seed should be one that the study does not report.
        rates: to try.
        threads: of each run.

    Raises:
        InputError: a file too small to be split.
    """
    parts = [split(Path(file), output / FOLDER / "data", number) for number, file in enumerate(data)]
    for name, path in plans.items():
        for rate in rates:
            yield Job(
                entrant=name,
                plan=str(path),
                model=model,
                data=tuple(str(train) for train, _ in parts),
                tests=tuple(str(validation) for _, validation in parts),
                folder=str(output / FOLDER / name / f"lr-{rate!r}"),
                settings=settings.model_copy(update={"learning_rate": rate}),
                threads=threads,
                trial=True,
            )


def best_rates(found: Sequence[tuple[Job, Evaluation | None]]) -> dict[str, float]:
    """Name of a plan -> the rate with the least validation loss; of equal ones the smaller.

    Raises:
        InputError: a plan that diverged at every rate.
    """
    scored: dict[str, list[tuple[float, float]]] = {}
    for job, evaluation in found:
        loss = evaluation.trained.loss if evaluation and math.isfinite(evaluation.trained.loss) else math.inf
        scored.setdefault(job.entrant, []).append((loss, job.settings.learning_rate))
    if lost := [name for name, tried in scored.items() if min(tried)[0] == math.inf]:
        raise InputError(f"plan {lost[0]!r} diverges at every rate of --lr-sweep; add smaller ones")
    return {name: min(tried)[1] for name, tried in scored.items()}


def checked_rates(rates: Sequence[float], settings: TrainSettings) -> None:
    """Refuse rates that cannot be trained with, and the same one twice.

    Raises:
        InputError: the rate.
    """
    for rate in rates:
        TrainSettings.checked(settings.model_dump() | {"learning_rate": rate}, "--lr-sweep")
    if len(set(rates)) < len(rates):
        raise InputError(f"--lr-sweep names a rate twice: {', '.join(f'{rate:g}' for rate in rates)}")


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
    rows = load_rows(file)
    if len(rows) < 2 / SHARE:
        raise InputError(f"{file}: {len(rows)} examples are too few to keep a tenth for validation")
    parts = rows.train_test_split(test_size=SHARE, seed=0)
    train, held = parts["train"].to_pandas(), parts["test"].to_pandas()
    if "label" in train:  # a label that is nowhere else cannot be held back
        unseen = ~held["label"].isin(train["label"])
        train, held = pd.concat([train, held[unseen]]), held[~unseen]
    for path, part in zip(paths, (train, held), strict=True):
        write_atomic(path, part.to_json(orient="records", lines=True))
    return paths
