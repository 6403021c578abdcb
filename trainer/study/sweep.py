"""A learning rate for every plan of a study, chosen on a part of the training data that the sweep does not train on.

The learning rate moves a result more than the plan does: at one rate for all, a comparison may only tell whom it suits.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from spectra import InputError
from trainer.data.split import split
from trainer.report import Evaluation
from trainer.settings import TrainSettings
from trainer.study.jobs import Job
from trainer.study.study import SWEEP, Study


def sweep_jobs(study: Study) -> list[Job]:
    """Every candidate at every learning rate; nothing where there is none to choose from.

    Raises:
        InputError: a training file too small to be split.
    """
    if not study.rates:
        return []
    folder = study.output / SWEEP / "data"
    return list(study.trials([split(Path(file), folder, number) for number, file in enumerate(study.data)]))


def best_rates(found: Sequence[tuple[Job, Evaluation | None]]) -> dict[str, float]:
    """Name of a plan -> the rate with the least validation loss; of equal ones the smaller.

    Raises:
        InputError: a plan that diverged at every rate.
    """
    scored: dict[str, list[tuple[float, float]]] = {}
    for job, evaluation in found:
        loss = evaluation.trained["loss"] if evaluation else math.inf
        # (loss, rate), so that `min` prefers the smaller rate among equals; NaN becomes infinite, because `min` cannot order it.
        scored.setdefault(job.candidate, []).append((loss if math.isfinite(loss) else math.inf, job.settings.rate))
    if lost := [name for name, tried in scored.items() if min(tried)[0] == math.inf]:
        raise InputError(f"plan {lost[0]!r} diverges at every rate of `rates`; add smaller ones")
    return {name: min(tried)[1] for name, tried in scored.items()}


def checked_rates(rates: Sequence[float], settings: TrainSettings) -> tuple[float, ...]:
    """Refuse rates that cannot be trained with, and the same one twice.

    Raises:
        InputError: the rate.
    """
    for rate in rates:
        TrainSettings.checked(settings.model_dump() | {"learning_rate": rate}, "`rates`")
    if len(set(rates)) < len(rates):
        raise InputError(f"`rates` names a rate twice: {', '.join(f'{rate:g}' for rate in rates)}")
    return tuple(rates)
