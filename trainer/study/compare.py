"""`plan compare`: a protocol for the question whether a plan pays.

1. Does the budget bind? Uniform LoRA at a quarter of it, at all of it and at four times it (binding.py).
2. What can so many seeds show, and what will it cost? Said from the first runs, before the others start (statistics.py).
3. Every arm at its own learning rate, chosen on data that is never reported (rates.py).
4. All arms with the same seeds; differences paired by seed and example (differences.py), and a verdict (verdict.py).

Every run is a folder of its own with everything that `plan train` writes. Runs are kept by content (study.py), so a study resumes
where it stopped, a second question about the same arms costs nothing, and several processes can work in one folder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from planner import Plan
from spectra import InputError, open_checkpoint
from spectra.core.files import require_place
from spectra.core.log import LOG
from spectra.core.progress import Progress, silent
from spectra.report import ModelInfo
from trainer.base_model import load_model
from trainer.data.dataset import read_texts
from trainer.evaluation.evaluate import prepare_task
from trainer.evaluation.metrics import METRICS
from trainer.layers.inject import locate
from trainer.report import TriedRate
from trainer.settings import DataSettings, Task, TrainSettings
from trainer.study.arms import Candidate, candidates_of
from trainer.study.binding import check, neighbours, next_smaller, told
from trainer.study.differences import Scores, against, beside, between, groups, measures_of
from trainer.study.export import write_tables
from trainer.study.rates import best, checked_rates, parts_of, tuned
from trainer.study.report import BASELINE, POOLED, STUDY, Arm, Bind, Binding, Power, Result, StudyReport, TestFile
from trainer.study.runs import Job, Outcome, run_all, workers
from trainer.study.statistics import detectable, seeds_for
from trainer.study.study import PLANS, Study, save_plans
from trainer.training.effects import Situation, in_effect, without_effect
from trainer.training.growth import schedule
from trainer.training.loop import arguments
from trainer.training.prepare import prepare

PILOTS = 3  # seeds of two arms from which the spread is taken where there is no check: they count like all others


def compare(
    plans: Sequence[str | Path],
    model: str | Path,
    data: Sequence[str | Path],
    tests: Sequence[str | Path],
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    arms: Sequence[str] = (),
    seeds: int = 5,
    baselines: bool = True,
    rates: Sequence[float] | None = None,
    binding: Bind = "stop",
    processes: int = 0,
    progress: Progress = silent,
) -> StudyReport:
    """Train every plan with the same seeds and say what differs.

    Args:
        plans: plan files of equal size; the file's name is the plan's.
        model: the base model, a folder or a hub id.
        data: training files.
        tests: held-out files; each keeps its own measure.
        output: the study's folder; finished runs in it are not repeated.
        settings: how to train; a run's seed is its number, so head, data order, schedule and initial numbers are paired.
        arms: more plans, as NAME=PLAN,SETTING=VALUE,..., whose runs differ in some settings.
        seeds: runs per plan.
        baselines: add plain uniform LoRA, a uniform mixture, random plans and, for classifiers, the head alone.
        rates: learning rates of which each plan gets its own best, by the loss on a tenth of the training data kept back in
            one run per rate; by default steps of two around that of the settings. With an empty list all train with that one.
        binding: whether to ask first if the budget binds, and to stop if it does not.
        processes: runs at a time; by default one per core, or per GPU.
        progress: told after each run, with its name.

    Raises:
        InputError: plans of unequal size or for another model, names that clash, or unusable data.
    """
    study = _study(plans, model, data, tests, output, settings or TrainSettings(), arms, seeds, baselines, rates, processes)
    return _Course(study, progress).through(binding)


def _study(
    plans: Sequence[str | Path],
    model: str | Path,
    data: Sequence[str | Path],
    tests: Sequence[str | Path],
    output: str | Path,
    settings: TrainSettings,
    arms: Sequence[str],
    seeds: int,
    baselines: bool,
    rates: Sequence[float] | None,
    processes: int,
) -> Study:
    """Everything that was given, checked before anything is written."""
    if settings.learning_rate == "auto":
        raise InputError("`learning_rate` auto is for a single run; a study chooses one for every plan, see `rates`")
    if settings.shard:
        raise InputError("`shard` splits the weights of one run among processes; the runs of a study are processes of their own")
    if settings.patience:
        raise InputError(
            f"`patience` {settings.patience}: the runs of a study watch no evaluation file, so none would stop early"
        )
    if rates and len(rates) == 1:  # nothing to choose
        settings, rates = TrainSettings.checked(settings.model_dump() | {"learning_rate": rates[0]}, "`rates`"), ()
    checkpoint = open_checkpoint(model)
    _require_names(tests)
    task = read_texts(data[0], settings=settings).task
    study = Study(
        candidates=candidates_of(plans, checkpoint, task, settings, baselines=baselines, arms=arms),
        checkpoint=checkpoint,
        data=tuple(map(str, data)),
        tests=tuple(map(str, tests)),
        output=Path(output),
        settings=settings,
        seeds=seeds,
        rates=checked_rates(rates, settings),
        processes=processes or workers(),
    )
    return replace(study, settings=settings.model_copy(update=dict(_require_trainable(study))))


class _Course:
    """A study on its way: what has been run, and what follows from it."""

    def __init__(self, study: Study, progress: Progress) -> None:
        self.study, self.progress = study, progress
        self.scores, self.tried = Scores(), dict[str, tuple[TriedRate, ...]]()
        self.results: list[Result] = []
        self.counted: dict[str, list[Outcome]] = {}
        self.tuning: dict[str, float] = {}
        self.sizes: list[Candidate] = []
        self.tests: tuple[TestFile, ...] = ()
        self.done = 0

    def through(self, binding: Bind) -> StudyReport:
        """All steps."""
        study = self.study
        for candidate in study.candidates:
            candidate.plan.save(study.output / PLANS / f"{candidate.name}.json")
        checked = self._checked() if binding != "skip" else None
        if checked is None:
            first = next(candidate for candidate in study.candidates if candidate.name != BASELINE)
            self._seeds([study.baseline, first], min(PILOTS, study.seeds))
        power = self._power(checked)
        if checked is not None and checked.binds is False and binding == "stop":
            return self._report(checked, power)
        self._seeds(study.candidates, study.seeds)
        return self._report(checked, power)

    def _checked(self) -> Binding | None:
        """Whether the budget binds; None where the model has no plans of other sizes."""
        study = self.study
        sizes = self.sizes = [study.baseline, *neighbours(study.baseline.plan.parameters, study.checkpoint)]
        if len(sizes) < 2:
            LOG.info("whether the budget binds cannot be asked: the model has no even plan of a quarter or four times the size")
            return None
        while True:
            self._seeds(sizes, study.seeds)
            found = check(self.scores, sizes, study.baseline, self.tests)
            smaller = next_smaller(found, study.checkpoint)
            if smaller is None:
                LOG.info(told(found))
                return found
            sizes.append(smaller)

    def _seeds(self, candidates: Sequence[Candidate], seeds: int) -> None:
        """Runs of some arms at their own learning rates, seed by seed, so that an interrupted study has whole pairs."""
        study = self.study
        if new := [candidate for candidate in candidates if candidate.name not in self.tried]:
            self.tried |= tuned(study, new, self._trials) or {candidate.name: () for candidate in new}
        rate = {name: best(tried) if tried else study.settings.rate for name, tried in self.tried.items()}
        jobs = [
            study.job(candidate, seed, rate[candidate.name])
            for seed in range(seeds)
            for candidate in candidates
            if seed >= len(self.counted.get(candidate.name, ()))
        ]
        for job, outcome in self._run(jobs):
            self._note(job, outcome)

    def _trials(self, jobs: Sequence[Job]) -> list[tuple[Job, Outcome]]:
        found = self._run(jobs)
        for job, outcome in found:
            self.tuning[job.arm] = self.tuning.get(job.arm, 0.0) + outcome.seconds
        return found

    def _run(self, jobs: Sequence[Job]) -> list[tuple[Job, Outcome]]:
        save_plans(jobs)
        # Two arms may be the same run, such as two names of one plan: it is done once.
        unique = {job.key: job for job in jobs}
        outcomes: dict[str, tuple[str, Outcome]] = {}
        total = self.done + len(unique)
        for job, outcome in run_all(list(unique.values()), self.study.processes):
            outcomes[job.key] = job.folder, outcome
            self.done += 1
            self.progress(self.done, total, Path(job.folder).name.rpartition(".")[0])
        return [(replace(job, folder=outcomes[job.key][0]), outcomes[job.key][1]) for job in jobs]

    def _note(self, job: Job, outcome: Outcome) -> None:
        seed = job.settings.seed
        self.counted.setdefault(job.arm, []).append(outcome)
        self.scores.add(job.arm, seed, outcome)
        if outcome.diverged:
            LOG.warning(f"{job.arm}, seed {seed}: diverged; {outcome.diverged}")
            return
        if not self.tests:
            self.tests = tuple(_test(self.study, file, outcome) for file in self.study.tests)
        self.results += [
            Result(
                arm=job.arm, seed=seed, test=test.name, scores=outcome.tests[test.sha256].scores, folder=Path(job.folder).name
            )
            for test in self.tests
        ]  # fmt: skip

    def _power(self, checked: Binding | None) -> Power | None:
        """What the study can find, told before its other runs start."""
        study = self.study
        if not self.tests:
            raise InputError("every run so far diverged; give a smaller `learning_rate`")
        name, files = list(groups([test for test in self.tests if test.measure == self.tests[0].measure]).items())[-1]
        others = [arm for arm in self.scores.runs if arm != BASELINE]
        # A quarter or four times the size differs from the whole about as plans of one size differ from each other.
        spreads = [self.scores.paired(arm, BASELINE, files, files[0].measure).spread for arm in others[:2]]
        known = [spread for spread in spreads if spread is not None and spread.variance > 0]
        comparisons = len(study.candidates) - 1
        if not known:
            return None
        widest = max(known, key=lambda spread: spread.variance).assured().with_seeds(study.seeds)
        size = detectable(widest, comparisons)
        times = [outcome.seconds for outcomes in self.counted.values() for outcome in outcomes if outcome.seconds > 0]
        left = len(study.candidates) * study.seeds - sum(len(self.counted.get(one.name, ())) for one in study.candidates)
        trials = (
            0 if study.rates == () else sum(one.name not in self.tried for one in study.candidates) * len(study.rates or "three")
        )
        found = Power(
            test=name,
            measure=files[0].measure,
            seeds=study.seeds,
            examples=sum(test.examples for test in files),
            detectable=size,
            seeds_for_half=seeds_for(size / 2, widest, comparisons),
            planned_seconds=(left + trials) * sum(times) / len(times) if times else math.nan,
        )
        LOG.info(_told(found, left + trials, study.processes))
        return found

    def _report(self, checked: Binding | None, power: Power | None) -> StudyReport:
        study = self.study
        compared = [candidate for candidate in study.candidates if len(self.counted.get(candidate.name, ())) >= study.seeds]
        names = [candidate.name for candidate in compared]
        whole = len(compared) == len(study.candidates)
        own = [candidate.name for candidate in compared if candidate.own]
        # Runs end in any order; a report has the same one every time.
        self.results.sort(key=lambda result: (result.test, result.arm, result.seed))
        report = StudyReport(
            model=ModelInfo.of(study.checkpoint),
            data={Path(file).name: study.digest(file) for file in study.data},
            settings=study.settings,
            seeds=study.seeds,
            arms=tuple(self._arm(candidate) for candidate in (*study.candidates, *self.sizes[1:])),
            tests=self.tests,
            results=tuple(self.results),
            differences=against(self.scores, names, BASELINE, self.tests) if whole else (),
            between=between(self.scores, own, self.tests) if whole else (),
            beside=beside(self.scores, names, BASELINE, self.tests) if whole else (),
            binding=checked,
            power=power,
        )
        report.save(study.output / STUDY)
        write_tables(report, study.output)
        return report

    def _arm(self, candidate: Candidate) -> Arm:
        outcomes, tried = self.counted.get(candidate.name, []), self.tried.get(candidate.name, ())
        times = [outcome.seconds for outcome in outcomes if outcome.seconds > 0]
        return Arm(
            name=candidate.name,
            strategy=candidate.plan.strategy,
            parameters=candidate.plan.parameters,
            changes={name: _plain(value) for name, value in candidate.changes.items()},
            learning_rate=best(tried) if tried else self.study.settings.rate,
            tried=tried,
            runs=len(outcomes),
            diverged=sum(bool(outcome.diverged) for outcome in outcomes),
            probing_seconds=_probing(candidate.plan),
            tuning_seconds=self.tuning.get(candidate.name, math.nan),
            training_seconds=sum(times) / len(times) if times else math.nan,
            peak_memory=max((outcome.peak_memory for outcome in outcomes), default=0),
        )


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _probing(plan: Plan) -> float:
    """Seconds that the reports took that a plan was made from; NaN where one does not say."""
    return sum(source.seconds for source in plan.made_from)


def _test(study: Study, file: str, outcome: Outcome) -> TestFile:
    digest = study.digest(file)
    measure, other = measures_of(outcome, digest)
    examples = len(outcome.tests[digest].by_example["loss"])
    return TestFile(name=Path(file).stem, sha256=digest, examples=examples, measure=measure, beside=other)


def _told(power: Power, runs: int, processes: int) -> str:
    metric = METRICS[power.measure]
    size = f"{metric.scale * power.detectable:.{metric.digits}f} {metric.unit}"
    half = f"half of that takes {power.seeds_for_half} seeds" if power.seeds_for_half else "half of that takes more test examples"
    minutes = power.planned_seconds / processes / 60
    cost = "" if math.isnan(minutes) else f"; {runs} runs remain, about {minutes:,.0f} min with {processes} at a time"
    return f"{power.seeds} seeds find differences of {size} in four of five studies, {half}{cost}"


def _require_names(tests: Sequence[str | Path]) -> None:
    stems = [Path(file).stem for file in tests]
    if odd := next((stem for stem in stems if stems.count(stem) > 1 or stem.startswith(POOLED)), None):
        raise InputError(f"`tests`: a test is named after its file, and {odd!r} is not a name for one; rename the file")


def _require_trainable(study: Study) -> DataSettings:
    """Check everything that the runs will, before the study's folder is written to.

    Returns:
        How all runs' data become tokens, with nothing left open.

    Raises:
        InputError: a plan, a file or a setting that does not fit the others.
    """
    if require_place(study.output) == study.checkpoint.folder.resolve():
        raise InputError(f"{study.output}: the folder of the model itself; choose another for the study")
    files = [Path(file) for file in study.data]
    # The data are the same for all arms, so the largest plan stands for them.
    largest = max(study.candidates, key=lambda candidate: candidate.plan.parameters)
    used = in_effect(Situation(plan=largest.plan, settings=study.settings))
    run = prepare(largest.plan, study.checkpoint, files, None, None, used, None)
    _require_effect(study, run.config.task)
    for candidate in study.candidates:
        settings = candidate.settings(study.settings)
        made = arguments(study.output, settings, len(run.examples.rows), evaluates=False)
        if settings.grow:
            schedule(made.max_steps, int(made.warmup_steps), settings)
            if candidate.plan.parameters and not any(site.routed or len(site.ranks) > 1 for site in candidate.plan.sites):
                raise InputError(f"`grow`: plan {candidate.name!r} adapts neither routed experts nor mixtures: nothing can grow")
    if study.rates != ():
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            parts_of(replace(study, output=Path(folder)))
    config = run.config
    model = load_model(study.checkpoint, config.task, config.labels, config.seed, config.pad_token_id, config.precision)
    for candidate in study.candidates:
        locate(model, candidate.plan, candidate.settings(study.settings).mixture())
    for test in study.tests:
        prepare_task(Path(test), run.config, run.tokenizer, study.checkpoint, 0)
    return run.config.data


def _require_effect(study: Study, task: Task) -> None:
    """Refuse a setting that would change nothing in any run of the study, or one of an arm that changes nothing in its own.

    Raises:
        InputError: naming the first.
    """

    def idle(candidate: Candidate) -> Mapping[str, str]:
        return without_effect(Situation(plan=candidate.plan, settings=candidate.settings(study.settings), task=task))

    found = {candidate.name: idle(candidate) for candidate in study.candidates}
    for candidate in study.candidates:
        if odd := next((name for name in candidate.changes if name in found[candidate.name]), None):
            raise InputError(f"arm {candidate.name!r}: `{odd}` has no effect {found[candidate.name][odd]}; leave it out")
    for name, why in next(iter(found.values())).items():
        if all(name in one for one in found.values()):
            raise InputError(f"`{name}` has no effect {why}; leave it out")
