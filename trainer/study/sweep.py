"""A learning rate for every plan of a study, chosen on a part of the training data that the sweep does not train on.

The learning rate moves a result more than the plan does: at one rate for all, a comparison may only tell whom it suits.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectra import InputError
from trainer.data.split import split
from trainer.report import Evaluation
from trainer.settings import TrainSettings
from trainer.study.jobs import Job

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
                candidate=name,
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
        scored.setdefault(job.candidate, []).append((loss, job.settings.learning_rate))
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
