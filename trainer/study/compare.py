"""`plan compare`: several plans of one size, the controls a reviewer would ask for, paired seeds, and what can be concluded.

Every run is a folder of its own (`runs/PLAN/seed-N`) with everything `plan train` and `plan evaluate` write, so a study resumes
where it stopped and any run can be looked at.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import planner
from planner import Plan, require_match
from planner.solver.options import MOST_EXPERTS
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.analysis import model_info
from spectra.core.files import read_json, write_atomic
from trainer.data.dataset import read_texts
from trainer.report import Evaluation
from trainer.settings import TrainSettings
from trainer.study.jobs import Job, run_all, threads, workers
from trainer.study.report import BASELINE, POOLED, STUDY, Candidate, Result, StudyReport
from trainer.study.statistics import differences
from trainer.study.sweep import best_rates, checked_rates, sweep_jobs

Progress = Callable[[int, int, str], None]
TOLERANCE = 0.10  # plans may differ by this share in size: whole ranks rarely spend a budget to the last parameter
ASKED = "asked.json"
SWEEP_SEED = 1_000_000  # of the runs that choose a learning rate; no study reports as many seeds


def compare(
    plans: Sequence[str | Path],
    model: str | Path,
    data: Sequence[str | Path],
    tests: Sequence[str | Path],
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    seeds: int = 5,
    baselines: bool = True,
    rates: Sequence[float] = (),
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
        rates: learning rates of which each plan gets its own best, by the loss on a tenth of the training data kept back in
            one run per rate; by default all plans train with that of the settings.
        processes: runs at a time; by default one per core, or per GPU.
        progress: called as progress(done, total, run).

    Raises:
        InputError: plans of unequal size or for another model, names that clash, unusable data, or a folder that holds a study
            of something else.
    """
    output, settings, processes = Path(output), settings or TrainSettings(), processes or workers()
    if settings.patience:
        raise InputError(f"patience {settings.patience}: the runs of a study watch no evaluation file, so none would stop early")
    checkpoint = open_checkpoint(model)
    kind = read_texts(data[0]).kind
    candidates = _candidates([Path(path) for path in plans], checkpoint, kind, baselines)
    files = tuple(map(str, data)), tuple(map(str, tests))
    checked_rates(rates, settings)
    stems = [Path(file).stem for file in tests]
    if odd := next((stem for stem in stems if stems.count(stem) > 1 or stem == POOLED), None):
        raise InputError(f"--test: a task is named after its file, and {odd!r} is not a name for one task; rename the file")
    _claim(output, candidates, checkpoint, files, settings, rates)
    paths = {name: output / "plans" / f"{name}.json" for name in candidates}
    for name, plan in candidates.items():
        plan.save(paths[name])
    total = len(candidates) * (seeds + len(rates))
    unreported = settings.model_copy(update={"seed": SWEEP_SEED})
    tries = list(sweep_jobs(paths, str(model), files[0], output, unreported, rates, threads(processes))) if rates else []
    own = best_rates(_finished(tries, processes, progress, 0, total))
    jobs = list(_jobs(paths, str(model), files, output, settings, own, seeds, processes))
    found = _finished(jobs, processes, progress, len(tries), total)
    results = [result for job, evaluation in found if evaluation for result in _results(job, evaluation)]
    report = _report(checkpoint, kind, settings, seeds, candidates, own, results)
    report.save(output / STUDY)
    return report


def _report(
    checkpoint: Checkpoint,
    kind: str,
    settings: TrainSettings,
    seeds: int,
    candidates: Mapping[str, Plan],
    own: Mapping[str, float],
    results: list[Result],
) -> StudyReport:
    results.sort(key=lambda result: (result.task, result.candidate, result.seed))
    return StudyReport(
        model=model_info(checkpoint),
        settings=settings,
        seeds=seeds,
        metric="accuracy" if kind == "classification" else "loss",
        candidates=tuple(
            Candidate(
                name=name,
                strategy=plan.strategy,
                parameters=plan.parameters,
                learning_rate=own.get(name, settings.learning_rate),
            )
            for name, plan in candidates.items()
        ),
        results=tuple(results),
        differences=differences(list(candidates), results),
    )


def _finished(
    jobs: Sequence[Job], processes: int, progress: Progress | None, before: int, total: int
) -> list[tuple[Job, Evaluation | None]]:
    found = []
    for job, evaluation in run_all(jobs, processes):
        found.append((job, evaluation))
        if progress:
            progress(before + len(found), total, f"{job.candidate}, {Path(job.folder).name}")
    return found


def _claim(
    output: Path,
    candidates: Mapping[str, Plan],
    checkpoint: Checkpoint,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    settings: TrainSettings,
    rates: Sequence[float],
) -> None:
    """Take a folder for this study, or find that it is this one's; seeds and plans may be added to it.

    Raises:
        InputError: the folder holds runs of another model, data or settings, or another plan of the same name.
    """
    digests = [[hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in group] for group in files]
    asked = {
        "model": checkpoint.weights,
        "data": digests[0],
        "tests": digests[1],
        "settings": settings.model_dump(mode="json"),
        "rates": list(rates),
    }
    path = output / ASKED
    finished = [run.parts[-3] for run in output.glob("*/*/*/study-evaluation.json")]
    held = read_json(path) if path.exists() and finished else asked
    if odd := [what for what in asked if held.get(what) != asked[what]]:
        raise InputError(f"{output}: holds a study with other {odd[0]}; choose another folder")
    for name, plan in candidates.items():
        there = output / "plans" / f"{name}.json"
        if name in finished and there.exists() and _adapters(before := Plan.load(there)) != _adapters(plan):
            if plan.strategy in ("uniform", "random") and plan.parameters != before.parameters:
                raise InputError(f"{output}: began with plans of another size, and its controls with it; choose another folder")
            raise InputError(f"{output}: holds runs of another plan named {name!r}; rename the plan or choose another folder")
    write_atomic(path, json.dumps(asked, indent=1) + "\n")


def _adapters(plan: Plan) -> list[tuple[str, tuple[int, ...], int]]:
    """What a run trains; evidence, notes and versions do not change it."""
    return [(site.name, site.ranks, site.top_k) for site in plan.sites]


def _jobs(
    paths: Mapping[str, Path],
    model: str,
    files: tuple[tuple[str, ...], tuple[str, ...]],
    output: Path,
    settings: TrainSettings,
    own: Mapping[str, float],
    seeds: int,
    processes: int,
) -> Iterator[Job]:
    """Seed by seed, so that an interrupted study has whole pairs."""
    for seed in range(seeds):
        for name, path in paths.items():
            rate = own.get(name, settings.learning_rate)
            yield Job(
                candidate=name,
                plan=str(path),
                model=model,
                data=files[0],
                tests=files[1],
                folder=str(output / "runs" / name / f"seed-{seed}"),
                settings=settings.model_copy(update={"seed": seed, "learning_rate": rate}),
                threads=threads(processes),
            )


def _candidates(paths: Sequence[Path], checkpoint: Checkpoint, kind: str, baselines: bool) -> dict[str, Plan]:
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
    found = _baselines(max(sizes.values()), checkpoint, kind) if baselines else {}
    if BASELINE not in found | plans:
        raise InputError(f"without controls one of the plans must be called {BASELINE}.json: everything is compared with it")
    if len(found | plans) < 2:
        raise InputError("one plan and no controls: there is nothing to compare")
    if clash := found.keys() & plans.keys():
        raise InputError(f"plan {sorted(clash)[0]!r} has the name of a control; rename the file")
    return plans | found


def _baselines(size: int, checkpoint: Checkpoint, kind: str) -> dict[str, Plan]:
    """By module: as even as whole ranks allow, and as large as the plans; equal ranks everywhere could be much smaller.

    Where not every module can have a rank, whole projection types go without, so that a control stays even over the layers.

    Raises:
        InputError: too small a size for even one projection type.
    """
    options: dict[str, Any] = {"budget": str(size), "model": checkpoint}
    least = planner.allocate(budget="rank 1", strategy="uniform", model=checkpoint).parameters
    even = {"granularity": "module"} if size >= least else {"granularity": "projection", "min_rank": 0}
    try:
        lora = planner.allocate(strategy="uniform", **options, **even)
    except InputError as error:
        raise InputError(
            f"plans of {size:,} parameters are smaller than rank 1 at any one projection type, so no control is even over the"
            f" layers; use --no-controls with a {BASELINE}.json of your own"
        ) from error
    found = {
        BASELINE: lora,
        "uniform-mixture": planner.allocate(strategy="uniform", max_experts=MOST_EXPERTS, **options, **even),
        "random": planner.allocate(strategy="random", max_experts=1, **options, **even | {"granularity": "module"}),
    }
    return found | ({"head-only": lora.without_adapters()} if kind == "classification" else {})


def _results(job: Job, evaluation: Evaluation) -> list[Result]:
    """One per task; a language model has no accuracy."""
    return [
        Result(
            candidate=job.candidate,
            seed=job.settings.seed,
            task=task.name,
            score=-task.trained.loss if math.isnan(task.trained.accuracy) else task.trained.accuracy,
        )
        for task in evaluation.tasks
    ]
