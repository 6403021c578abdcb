"""A learning rate for every plan of a study, chosen on a part of the training data that the sweep does not train on.

The learning rate moves a result more than the plan does: at one rate for all, a comparison may only tell whom it suits.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectra import InputError
from spectra.values import write_atomic
from trainer.data import load_rows
from trainer.jobs import Job
from trainer.reports import Evaluation, TrainSettings

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
    parts = [_split(Path(file), output / FOLDER / "data", number) for number, file in enumerate(data)]
    for name, path in plans.items():
        for rate in rates:
            yield Job(
                entrant=name,
                plan=str(path),
                model=model,
                data=tuple(str(train) for train, _ in parts),
                tests=tuple(str(validation) for _, validation in parts),
                folder=str(output / FOLDER / name / f"lr-{rate:g}"),
                settings=settings.model_copy(update={"learning_rate": rate}),
                threads=threads,
            )


def best_rates(found: Sequence[tuple[Job, Evaluation]]) -> dict[str, float]:
    """Name of a plan -> the rate with the least validation loss; of equal ones the smaller."""
    scored: dict[str, list[tuple[float, float]]] = {}
    for job, evaluation in found:
        scored.setdefault(job.entrant, []).append((evaluation.trained.loss, job.settings.learning_rate))
    return {name: min(tried)[1] for name, tried in scored.items()}


def _split(file: Path, folder: Path, number: int) -> tuple[Path, Path]:
    """Write a training file's two parts as JSON lines, in its own columns."""
    paths = folder / f"{number}-train.jsonl", folder / f"{number}-validation.jsonl"
    rows = load_rows(file)
    if len(rows) < 2 / SHARE:
        raise InputError(f"{file}: {len(rows)} examples are too few to keep a tenth for choosing the learning rate")
    parts = rows.train_test_split(test_size=SHARE, seed=0)
    for path, part in zip(paths, ("train", "test"), strict=True):
        write_atomic(path, parts[part].to_pandas().to_json(orient="records", lines=True))
    return paths
