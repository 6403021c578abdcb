"""`plan compare`: several plans of one size, the controls a reviewer would ask for, paired seeds, and what can be concluded.

Every run is a folder of its own (`runs/PLAN/seed-N`) with everything `plan train` and `plan evaluate` write, so a study resumes
where it stopped and any run can be looked at.
"""

import io
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import planner
from planner import Plan, require_match
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.analysis import model_info
from trainer.data import read_texts
from trainer.reports import EVALUATION, Evaluation, TrainSettings
from trainer.study import CONTROL, Entrant, Result, StudyReport, differences

Progress = Callable[[int, int, str], None]
TOLERANCE = 0.10  # plans may differ by this share in size: whole ranks rarely spend a budget to the last parameter
STUDY = "study.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run of a study."""

    entrant: str
    plan: str
    model: str
    data: tuple[str, ...]
    tests: tuple[str, ...]
    folder: str
    settings: TrainSettings
    threads: int


def compare(
    plans: Sequence[str | Path],
    model: str | Path,
    data: Sequence[str | Path],
    tests: Sequence[str | Path],
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    seeds: int = 5,
    controls: bool = True,
    processes: int = 0,
    progress: Progress | None = None,
) -> StudyReport:
    """Train every plan with the same seeds and say what differs.

    Args:
        plans: plan files of about equal size; the file's name is the plan's.
        model: the base model, a folder or a hub id.
        data: training files.
        tests: held-out files, one per task.
        output: the study's folder; finished runs in it are not repeated.
        settings: how to train; a run's seed is its number, so head, data order and schedule are paired.
        seeds: runs per plan.
        controls: add plain uniform LoRA, a uniform mixture, a random plan and, for classifiers, the head alone.
        processes: runs at a time; by default one per core, on a GPU one.
        progress: called as progress(done, total, run).

    Raises:
        InputError: plans of unequal size or for another model, names that clash, or unusable data.
    """
    output, settings, processes = Path(output), settings or TrainSettings(), processes or _workers()
    checkpoint = open_checkpoint(model)
    entrants = _entrants([Path(path) for path in plans], checkpoint, read_texts(data[0]).kind, controls)
    jobs = list(_jobs(entrants, str(model), tuple(map(str, data)), tuple(map(str, tests)), output, settings, seeds, processes))
    results = []
    for done, (job, evaluation) in enumerate(_run_all(jobs, processes), start=1):
        results += _results(job, evaluation)
        if progress:
            progress(done, len(jobs), f"{job.entrant}, seed {job.settings.seed}")
    results.sort(key=lambda result: (result.task, result.entrant, result.seed))
    report = StudyReport(
        model=model_info(checkpoint),
        settings=settings,
        seeds=seeds,
        metric="accuracy" if read_texts(data[0]).kind == "classification" else "loss",
        entrants=tuple(Entrant(name=name, strategy=plan.strategy, parameters=plan.parameters) for name, plan in entrants.items()),
        results=tuple(results),
        differences=differences(list(entrants), results),
    )
    report.save(output / STUDY)
    return report


def _jobs(
    entrants: Mapping[str, Plan],
    model: str,
    data: tuple[str, ...],
    tests: tuple[str, ...],
    output: Path,
    settings: TrainSettings,
    seeds: int,
    processes: int,
) -> Iterator[_Job]:
    """Seed by seed, so that an interrupted study has whole pairs."""
    paths = {name: output / "plans" / f"{name}.json" for name in entrants}
    for name, plan in entrants.items():
        plan.save(paths[name])
    for seed in range(seeds):
        for name, path in paths.items():
            yield _Job(
                entrant=name,
                plan=str(path),
                model=model,
                data=data,
                tests=tests,
                folder=str(output / "runs" / name / f"seed-{seed}"),
                settings=settings.model_copy(update={"seed": seed}),
                threads=max(1, (os.cpu_count() or 1) // processes),
            )


def _entrants(paths: Sequence[Path], checkpoint: Checkpoint, kind: str, controls: bool) -> dict[str, Plan]:
    """The plans by name, after a check that they are of one size, and the controls."""
    plans = {path.stem: Plan.load(path) for path in paths}
    if len(plans) < len(paths):
        raise InputError("two plan files share a name; rename one")
    for plan in plans.values():
        require_match(plan, checkpoint)
    sizes = {name: plan.parameters for name, plan in plans.items()}
    if min(sizes.values()) < (1 - TOLERANCE) * max(sizes.values()):
        shown = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InputError(f"plans differ in size by more than {TOLERANCE:.0%}: {shown}; make them with one --budget")
    found = _controls(max(sizes.values()), checkpoint, kind) if controls else {}
    if CONTROL not in found | plans:
        raise InputError(f"without controls one of the plans must be called {CONTROL}.json: everything is compared with it")
    if len(found | plans) < 2:
        raise InputError("one plan and no controls: there is nothing to compare")
    if clash := found.keys() & plans.keys():
        raise InputError(f"plan {sorted(clash)[0]!r} has the name of a control; rename the file")
    return plans | found


def _controls(size: int, checkpoint: Checkpoint, kind: str) -> dict[str, Plan]:
    budget = str(size)
    lora = planner.allocate(budget=budget, strategy="uniform", model=checkpoint, max_experts=1)
    found = {
        CONTROL: lora,
        "uniform-mixture": planner.allocate(budget=budget, strategy="uniform", model=checkpoint),
        "random": planner.allocate(budget=budget, strategy="random", model=checkpoint, max_experts=1),
    }
    return found | ({"head-only": lora.without_adapters()} if kind == "classification" else {})


def _workers() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1


def _run_all(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, Evaluation]]:
    """All runs, those first that are already there."""
    todo = []
    for job in jobs:
        path = Path(job.folder) / EVALUATION
        if path.is_file():
            yield job, Evaluation.load(path)
        else:
            todo.append(job)
    if workers == 1:
        yield from ((job, _run(job)) for job in todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_run, job): job for job in todo}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            for future in running:
                future.cancel()


def _run(job: _Job) -> Evaluation:
    """Train and evaluate, going on where an earlier attempt stopped."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a new process; see cli.py
    import torch

    from trainer import evaluate, train

    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        with redirect_stderr(io.StringIO()):  # dozens of runs would each say what they adapted
            train(Plan.load(job.plan), job.model, job.data, job.folder, job.settings, resume=True)
            evaluation = evaluate(job.folder, job.tests, untrained=False)
    finally:
        torch.set_num_threads(before)
    evaluation.save(Path(job.folder) / EVALUATION)
    return evaluation


def _results(job: _Job, evaluation: Evaluation) -> list[Result]:
    """One per task; a language model has no accuracy."""
    return [
        Result(
            entrant=job.entrant,
            seed=job.settings.seed,
            task=task.name,
            score=-task.trained.loss if math.isnan(task.trained.accuracy) else task.trained.accuracy,
        )
        for task in evaluation.tasks
    ]
