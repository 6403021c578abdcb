"""`plan compare`: several plans of one size, the baselines a reviewer would ask for, paired seeds, and what can be concluded.

Every run is a folder of its own (`runs/PLAN/seed-N`) with everything `plan train` and `plan evaluate` write, so a study resumes
where it stopped and any run can be looked at.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from planner import Plan
from spectra import InputError, open_checkpoint
from spectra.core.files import read_json, require_place, write_atomic
from spectra.core.locks import held
from spectra.core.progress import Progress, silent
from spectra.report import ModelInfo
from trainer.base_model import load_model
from trainer.data.dataset import read_texts
from trainer.data.files import content_sha256
from trainer.data.split import split
from trainer.evaluation.evaluate import prepare_task
from trainer.evaluation.metrics import METRICS
from trainer.layers.inject import locate
from trainer.report import Evaluation
from trainer.settings import DataSettings, Task, TrainSettings
from trainer.study.candidates import candidates_of
from trainer.study.jobs import Job, run_all, workers
from trainer.study.report import POOLED, STUDY, Candidate, Result, StudyReport
from trainer.study.statistics import differences
from trainer.study.study import Study
from trainer.study.sweep import best_rates, checked_rates, sweep_jobs
from trainer.training.effects import Situation, in_effect, without_effect
from trainer.training.growth import schedule
from trainer.training.loop import arguments
from trainer.training.prepare import prepare

MANIFEST = "manifest.json"
"""Model, data and settings that the study was begun with; one that continues has to match them."""


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
    progress: Progress = silent,
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
        baselines: add plain uniform LoRA, a uniform mixture, a random plan and, for classifiers, the head alone.
        rates: learning rates of which each plan gets its own best, by the loss on a tenth of the training data kept back in
            one run per rate; by default all plans train with that of the settings.
        processes: runs at a time; by default one per core, or per GPU.
        progress: told after each run, with its name.

    Raises:
        InputError: plans of unequal size or for another model, names that clash, unusable data, or a folder that holds a study
            of something else.
    """
    settings = settings or TrainSettings()
    if settings.learning_rate == "auto":
        raise InputError("`learning_rate` auto is for a single run; `rates` chooses one for every plan of a study")
    if settings.shard:
        raise InputError("`shard` splits the weights of one run among processes; the runs of a study are processes of their own")
    if settings.patience:
        raise InputError(
            f"`patience` {settings.patience}: the runs of a study watch no evaluation file, so none would stop early"
        )
    checkpoint = open_checkpoint(model)
    _require_names(tests)
    study = Study(
        candidates=candidates_of(
            list(map(Path, plans)), checkpoint, read_texts(data[0], settings=settings).task, baselines=baselines
        ),
        checkpoint=checkpoint,
        data=tuple(map(str, data)),
        tests=tuple(map(str, tests)),
        output=Path(output),
        settings=settings,
        seeds=seeds,
        rates=checked_rates(rates, settings),
        processes=processes or workers(),
    )
    study = replace(study, settings=settings.model_copy(update=dict(_require_trainable(study))))
    with held(study.output, "compares plans in this folder"):
        return _compared(study, progress)


def _compared(study: Study, progress: Progress) -> StudyReport:
    _claim(study)
    # The sweep is over before the first run that counts, because the rates are among these runs' settings.
    trials = sweep_jobs(study)
    own = best_rates(_finished(study, trials, progress, 0))
    found = _finished(study, list(study.jobs(own)), progress, len(trials))
    report = _report(study, own, [(job, evaluation) for job, evaluation in found if evaluation])
    report.save(study.output / STUDY)
    return report


def _require_names(tests: Sequence[str | Path]) -> None:
    stems = [Path(file).stem for file in tests]
    if odd := next((stem for stem in stems if stems.count(stem) > 1 or stem == POOLED), None):
        raise InputError(f"`tests`: a task is named after its file, and {odd!r} is not a name for one task; rename the file")


def _require_trainable(study: Study) -> DataSettings:
    """Check everything that the runs will, before the study's folder is claimed.

    Returns:
        How all runs' data become tokens, with nothing left open: as the study began, or as it is found now.

    Raises:
        InputError: a plan, a file or a setting that does not fit the others.
    """
    if require_place(study.output) == study.checkpoint.folder.resolve():
        raise InputError(f"{study.output}: the folder of the model itself; choose another for the study")
    files = [Path(file) for file in study.data]
    # The data and the settings are the same for all plans, so the largest stands for them.
    largest = max(study.candidates.values(), key=lambda plan: plan.parameters)
    used = in_effect(Situation(plan=largest, settings=study.settings))
    run = prepare(largest, study.checkpoint, files, None, None, used, _noted(study.output))
    _require_effect(study, run.config.task)
    made = arguments(study.output, study.settings, len(run.examples.rows), evaluates=False)
    if study.settings.grow:
        schedule(made.max_steps, int(made.warmup_steps), study.settings)
        for name, plan in study.candidates.items():
            if not any(site.routed or len(site.ranks) > 1 for site in plan.sites):
                raise InputError(f"`grow`: plan {name!r} adapts neither routed experts nor mixtures: nothing can grow")
    if study.rates:
        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                split(file, Path(folder))
    config = run.config
    model = load_model(study.checkpoint, config.task, config.labels, config.seed, config.pad_token_id, config.precision)
    for plan in study.candidates.values():
        locate(model, plan, config.mixture)
    for test in study.tests:
        prepare_task(Path(test), run.config, run.tokenizer, study.checkpoint, 0)
    return run.config.data


def _noted(output: Path) -> DataSettings | None:
    """How the data of the study in a folder became tokens, if it holds one."""
    noted = read_json(output / MANIFEST) if (output / MANIFEST).is_file() else None
    settings = noted.get("settings") if isinstance(noted, dict) else None
    try:
        return TrainSettings.model_validate(settings).data() if settings else None
    except ValueError:
        return None


def _require_effect(study: Study, task: Task) -> None:
    """Refuse a setting that would change nothing in any run of the study.

    Raises:
        InputError: naming the first.
    """
    plans = study.candidates.values()
    found = [without_effect(Situation(plan=plan, settings=study.settings, task=task)) for plan in plans]
    for name, why in found[0].items():
        if all(name in one for one in found):
            raise InputError(f"`{name}` has no effect {why}; leave it out")


def _report(study: Study, own: Mapping[str, float], found: Sequence[tuple[Job, Evaluation]]) -> StudyReport:
    metric = metric_of([evaluation for _, evaluation in found])
    results = [result for job, evaluation in found for result in _results(job, evaluation, metric)]
    # Runs end in any order; a report has the same one every time.
    results.sort(key=lambda result: (result.task, result.candidate, result.seed))
    return StudyReport(
        model=ModelInfo.of(study.checkpoint),
        settings=study.settings,
        seeds=study.seeds,
        metric=metric,
        candidates=tuple(
            Candidate(
                name=name,
                strategy=plan.strategy,
                parameters=plan.parameters,
                learning_rate=own.get(name, study.settings.rate),
            )
            for name, plan in study.candidates.items()
        ),
        results=tuple(results),
        differences=differences(list(study.candidates), results),
    )


def metric_of(evaluations: Sequence[Evaluation]) -> str:
    """What a study compares: the first metric of the table that every task of every run has."""
    tasks = [task.trained for evaluation in evaluations for task in evaluation.tasks]
    shared = [name for name, metric in METRICS.items() if metric.compared and all(name in task for task in tasks)]
    if not shared:
        raise InputError("the runs of this study have no score in common; remove their study-evaluation.json to repeat them")
    return shared[0]


def _results(job: Job, evaluation: Evaluation, metric: str) -> list[Result]:
    """One per task; of a metric that should be small the score is minus the metric."""
    sign = METRICS[metric].sign
    return [
        Result(candidate=job.candidate, seed=job.settings.seed, task=task.name, score=sign * task.trained[metric])
        for task in evaluation.tasks
    ]


def _finished(study: Study, jobs: Sequence[Job], progress: Progress, before: int) -> list[tuple[Job, Evaluation | None]]:
    found = []
    for job, evaluation in run_all(jobs, study.processes):
        found.append((job, evaluation))
        progress(before + len(found), study.total, f"{job.candidate}, {Path(job.folder).name}")
    return found


def _claim(study: Study) -> None:
    """Take a folder for this study, or find that it is this one's; seeds and plans may be added to it.

    Raises:
        InputError: the folder holds runs of another model, data or settings, or another plan of the same name.
    """
    # By content, so that files may move; paths are not compared.
    digests = [[content_sha256(Path(file)) for file in group] for group in (study.data, study.tests)]
    begun = {
        "model": study.checkpoint.weights,
        "data": digests[0],
        "tests": digests[1],
        "settings": study.settings.model_dump(mode="json"),
        "rates": list(study.rates),
    }
    path, output = study.output / MANIFEST, study.output
    # ROOM/PLAN/RUN/study-evaluation.json, the room being that of the runs or of the sweep: names of plans with a result.
    finished = [run.parts[-3] for run in output.glob("*/*/*/study-evaluation.json")]
    # Before the first result nothing is lost by starting over with other settings.
    noted = read_json(path) if path.exists() and finished else begun
    if not isinstance(noted, dict):
        raise InputError(f"{path}: notes nothing about the study; choose another folder")
    if odd := [what for what in begun if noted.get(what) != begun[what]]:
        raise InputError(f"{output}: holds a study with other {odd[0]}; choose another folder")
    for name, plan in study.candidates.items():
        there = study.plan_file(name)
        if name in finished and there.exists() and _adapters(before := Plan.load(there)) != _adapters(plan):
            # Baselines are as large as the plans. It is their size that differs, although it is their name that clashes.
            if plan.strategy in ("uniform", "random") and plan.parameters != before.parameters:
                raise InputError(f"{output}: began with plans of another size, and its baselines with it; choose another folder")
            raise InputError(f"{output}: holds runs of another plan named {name!r}; rename the plan or choose another folder")
    write_atomic(path, json.dumps(begun, indent=1) + "\n")
    for name, plan in study.candidates.items():
        plan.save(study.plan_file(name))


def _adapters(plan: Plan) -> list[tuple[str, tuple[int, ...], int]]:
    """What a run trains; evidence, notes and versions do not change it."""
    return [(site.name, site.ranks, site.top_k) for site in plan.sites]
