"""A study as one value: which plans are compared on what, and the runs that this takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner import Plan
from spectra import Checkpoint
from trainer.settings import TrainSettings
from trainer.study.jobs import Job, threads
from trainer.training.effects import Situation, in_effect

SWEEP_SEED = 1_000_000  # of the runs that choose a learning rate; no study reports as many seeds
SWEEP = "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is compared. A study's runs are paired: those of one seed share head, data order and schedule."""

    candidates: Mapping[str, Plan]
    """Name -> plan, baselines included."""
    checkpoint: Checkpoint
    data: tuple[str, ...]
    """Training files."""
    tests: tuple[str, ...]
    """Held-out files, one per task."""
    output: Path
    settings: TrainSettings
    seeds: int
    rates: tuple[float, ...]
    """Learning rates to choose from for each plan; none to train all with that of the settings."""
    processes: int

    @property
    def total(self) -> int:
        """Number of runs."""
        return len(self.candidates) * (self.seeds + len(self.rates))

    def plan_file(self, name: str) -> Path:
        """Where a candidate's plan is kept."""
        return self.output / "plans" / f"{name}.json"

    def jobs(self, own_rates: Mapping[str, float]) -> Iterator[Job]:
        """The runs that count, seed by seed, so that an interrupted study has whole pairs.

        Args:
            own_rates: name -> learning rate, where a sweep chose one.
        """
        for seed in range(self.seeds):
            for name in self.candidates:
                changes = {"seed": seed, "learning_rate": own_rates.get(name, self.settings.rate)}
                yield self._job(name, self.output / "runs" / name / f"seed-{seed}", self.data, self.tests, changes)

    def trials(self, parts: Sequence[tuple[Path, Path]]) -> Iterator[Job]:
        """Every candidate at every learning rate, with a seed that is not reported.

        Args:
            parts: of every training file the part to train on and the part to validate on.
        """
        data, tests = (tuple(map(str, side)) for side in zip(*parts, strict=True))
        for name in self.candidates:
            for rate in self.rates:
                changes = {"seed": SWEEP_SEED, "learning_rate": rate}
                # `repr` has every digit of the rate, so that two rates never share a folder.
                yield self._job(name, self.output / SWEEP / name / f"lr-{rate!r}", data, tests, changes, of_sweep=True)

    def _job(
        self,
        name: str,
        folder: Path,
        data: tuple[str, ...],
        tests: tuple[str, ...],
        changes: Mapping[str, float],
        of_sweep: bool = False,
    ) -> Job:
        return Job(
            candidate=name,
            plan=str(self.plan_file(name)),
            model=self.checkpoint.source,
            data=data,
            tests=tests,
            folder=str(folder),
            # What means nothing to one plan, such as a router's settings to plain LoRA, is left out of its runs.
            settings=in_effect(Situation(plan=self.candidates[name], settings=self.settings)).model_copy(update=dict(changes)),
            threads=threads(self.processes),
            of_sweep=of_sweep,
        )
