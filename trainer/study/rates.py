"""A learning rate for every arm of a study, chosen on a part of the training data that is never reported.

The learning rate moves a result more than the plan does: at one rate for all, a comparison may only tell whom it suits. So every
arm gets its own best among steps of two. The search begins at the study's rate, its half and its double, and goes on in the
direction in which the loss still falls.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from spectra import InputError
from trainer.data.split import split
from trainer.report import TriedRate
from trainer.settings import TrainSettings
from trainer.study.arms import Candidate
from trainer.study.runs import Job, Outcome
from trainer.study.study import Study

STEP = 2.0
FURTHER = 3
"""Steps of two beyond the first three rates at most: whoever needs more has a rate to begin with that is far off."""
VALIDATION = "validation"
Runner = Callable[[Sequence[Job]], list[tuple[Job, Outcome]]]
"""Does some runs and returns them with their outcomes."""


def parts_of(study: Study) -> list[tuple[Path, Path]]:
    """Of every training file nine tenths to train on and a tenth to choose by.

    Raises:
        InputError: a training file too small to be split.
    """
    folder = study.output / VALIDATION
    return [split(Path(file), folder, number) for number, file in enumerate(study.data)]


def tuned(study: Study, candidates: Sequence[Candidate], run: Runner) -> dict[str, tuple[TriedRate, ...]]:
    """Arm -> the rates that were tried for it; nothing where the study trains all arms with one rate.

    Raises:
        InputError: an arm that diverges at every rate, or a training file too small to be split.
    """
    if study.rates == ():
        return {}
    parts = parts_of(study)
    tried: dict[str, dict[float, TriedRate]] = {candidate.name: {} for candidate in candidates}
    start = study.settings.rate
    wanted = {name: list(study.rates or (start / STEP, start, start * STEP)) for name in tried}
    by_name = {candidate.name: candidate for candidate in candidates}
    for _ in range(1 + (FURTHER if study.rates is None else 0)):
        jobs = [study.trial(by_name[name], rate, parts) for name, rates in wanted.items() for rate in rates]
        for job, outcome in run(jobs):
            tried[job.arm][job.settings.rate] = TriedRate(
                learning_rate=job.settings.rate, steps=job.settings.max_steps, loss=_loss(outcome)
            )
        wanted = {name: further for name, rates in tried.items() if (further := _further(rates))}
        if not wanted:
            break
    for name, rates in tried.items():
        if not any(math.isfinite(one.loss) for one in rates.values()):
            raise InputError(
                f"plan {name!r} diverges at every learning rate from {min(rates):g} to {max(rates):g}; give smaller ones"
            )
    return {name: tuple(rates[rate] for rate in sorted(rates)) for name, rates in tried.items()}


def best(tried: Sequence[TriedRate]) -> float:
    """The rate with the least validation loss; of equal ones the smaller."""
    return min((one for one in tried if math.isfinite(one.loss)), key=lambda one: (one.loss, one.learning_rate)).learning_rate


def _further(rates: dict[float, TriedRate]) -> list[float]:
    """The next rate in the direction in which the loss still falls, if the best one is at an end."""
    if not any(math.isfinite(one.loss) for one in rates.values()):
        return [min(rates) / STEP]
    found = best(list(rates.values()))
    if found == max(rates):
        return [found * STEP]
    return [found / STEP] if found == min(rates) else []


def _loss(outcome: Outcome) -> float:
    """Mean over the validation files; infinite for a run that diverged."""
    losses = [scored.scores["loss"] for scored in outcome.tests.values()]
    mean = sum(losses) / len(losses) if losses and not outcome.diverged else math.inf
    return mean if math.isfinite(mean) else math.inf


def checked_rates(rates: Sequence[float] | None, settings: TrainSettings) -> tuple[float, ...] | None:
    """Refuse rates that cannot be trained with, and the same one twice.

    Raises:
        InputError: the rate.
    """
    for rate in rates or ():
        TrainSettings.checked(settings.model_dump() | {"learning_rate": rate}, "`rates`")
    if rates and len(set(rates)) < len(rates):
        raise InputError(f"`rates` names a rate twice: {', '.join(f'{rate:g}' for rate in rates)}")
    return None if rates is None else tuple(rates)
