"""A study as one value: what is compared on what, and the runs that this takes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from planner import Plan
from spectra import Checkpoint
from spectra.core.files import write_atomic
from trainer.base_model import resolved
from trainer.data.files import content_sha256
from trainer.settings import TrainSettings
from trainer.study.arms import Candidate
from trainer.study.runs import Job, threads
from trainer.training.effects import Situation, in_effect

TRIAL_SEED = 1_000_000  # of the runs that choose a learning rate; no study reports as many seeds
RUNS, PLANS = "runs", "plans"


# No slots: the digests are cached in the instance's __dict__.
@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared. A study's runs are paired: those of one seed share head, data order, schedule and initial numbers."""

    candidates: Sequence[Candidate]
    """Baselines included."""
    checkpoint: Checkpoint
    data: tuple[str, ...]
    """Training files."""
    tests: tuple[str, ...]
    """Held-out files."""
    output: Path
    settings: TrainSettings
    seeds: int
    rates: tuple[float, ...] | None = ()
    """Learning rates to choose from for each arm; none to train all with that of the settings; None to search by halves."""
    processes: int = 1
    digests: dict[str, str] = field(default_factory=dict)
    """File -> its content's sha256, as far as they are known."""

    @property
    def baseline(self) -> Candidate:
        """The arm that all others are compared with."""
        from trainer.study.report import BASELINE

        return next(candidate for candidate in self.candidates if candidate.name == BASELINE)

    @cached_property
    def common(self) -> TrainSettings:
        """The settings with the precision that `auto` stands for here: it is a part of what a run is."""
        return self.settings.model_copy(update={"precision": resolved(self.settings.precision)})

    def job(self, candidate: Candidate, seed: int, rate: float) -> Job:
        """A run that counts."""
        return self._job(candidate, candidate.plan_of(seed), seed, rate, self.data, self.tests)

    def trial(self, candidate: Candidate, rate: float, parts: Sequence[tuple[Path, Path]]) -> Job:
        """A run that helps to choose a learning rate.

        Args:
            candidate: whose.
            rate: to try.
            parts: of every training file the part to train on and the part to validate on.
        """
        data, tests = (tuple(map(str, side)) for side in zip(*parts, strict=True))
        return self._job(candidate, candidate.plan_of(None), TRIAL_SEED, rate, data, tests)

    def _job(
        self, candidate: Candidate, plan: Plan, seed: int, rate: float, data: tuple[str, ...], tests: tuple[str, ...]
    ) -> Job:
        # What means nothing to one plan, such as a router's settings to plain LoRA, is left out of its runs.
        used = in_effect(Situation(plan=plan, settings=candidate.settings(self.common)))
        settings = used.model_copy(update={"seed": seed, "learning_rate": rate})
        # A run is known by what makes it: another study that asks for the same one finds it, under whatever name.
        parts = [self.checkpoint.weights, *(self.digest(file) for file in data), adapters(plan), settings.model_dump_json()]
        known = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        kept = next(iter(sorted((self.output / RUNS).glob(f"*.{known}"))), None)
        named = f"{candidate.name}.{'trial' if seed == TRIAL_SEED else f'seed-{seed}'}.{known}"
        file = self.output / RUNS / PLANS / f"{hashlib.sha256(adapters(plan).encode()).hexdigest()[:16]}.json"
        return Job(
            arm=candidate.name,
            plan=plan,
            plan_file=str(file),
            model=self.checkpoint.source,
            data=data,
            tests={self.digest(file): file for file in tests},
            folder=str(kept or self.output / RUNS / named),
            settings=settings,
            threads=threads(self.processes),
        )

    def digest(self, file: str) -> str:
        """A file's content's sha256."""
        if file not in self.digests:
            self.digests[file] = content_sha256(Path(file))
        return self.digests[file]


def adapters(plan: Plan) -> str:
    """What a run trains, as text; evidence, notes and versions do not change it."""
    return repr([(site.name, site.ranks, site.top_k) for site in plan.sites if site.ranks])


def save_plans(jobs: Sequence[Job]) -> None:
    """Write the plans of some runs, each once, where workers find them."""
    plans: Mapping[str, Plan] = {job.plan_file: job.plan for job in jobs if not Path(job.plan_file).exists()}
    for file, plan in plans.items():
        write_atomic(Path(file), plan.to_json())
