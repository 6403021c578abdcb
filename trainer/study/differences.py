"""From the scores of runs, example by example, to differences of arms: what is paired, and what is adjusted together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from trainer.evaluation.metrics import METRICS
from trainer.study.report import Difference, TestFile, pooled_name
from trainer.study.runs import Outcome
from trainer.study.statistics import Floats, Paired, holm, paired, seeds_for

MEASURES = ("loss", "accuracy")
"""What every example has a value of; of a language model's questions and a classifier's labels both."""
BY_PICKS = "accuracy"


def measures_of(outcome: Outcome, digest: str) -> tuple[str, str]:
    """What is measured on a file, and what is shown beside it: right picks where something is picked, else the loss."""
    known = outcome.tests[digest].by_example
    return (BY_PICKS, "loss") if BY_PICKS in known else ("loss", "")


@dataclass(frozen=True, slots=True)
class Scores:
    """What the arms' runs scored: arm -> seed -> outcome, diverged ones left out."""

    runs: dict[str, dict[int, Outcome]] = field(default_factory=dict)

    def add(self, arm: str, seed: int, outcome: Outcome) -> None:
        """Note a run, if it has scores."""
        if not outcome.diverged:
            self.runs.setdefault(arm, {})[seed] = outcome

    def of(self, arm: str, test: TestFile, measure: str, seeds: Iterable[int] | None = None) -> Floats:
        """(seeds, examples): an arm's scores on a file, of its seeds in order."""
        known = self.runs.get(arm, {})
        rows = [known[seed].tests[test.sha256].by_example[measure] for seed in sorted(known if seeds is None else seeds)]
        return np.array(rows, dtype=np.float64)

    def shared(self, one: str, other: str) -> list[int]:
        """The seeds that both arms have finished."""
        return sorted(self.runs.get(one, {}).keys() & self.runs.get(other, {}).keys())

    def paired(self, one: str, other: str, tests: Sequence[TestFile], measure: str) -> Paired:
        """One arm minus another over some files of a measure."""
        seeds = self.shared(one, other)
        if not seeds:
            return Paired(mean=math.nan, error=math.nan, freedom=math.nan)
        return paired([self.of(one, test, measure, seeds) - self.of(other, test, measure, seeds) for test in tests])

    def difference(self, one: str, other: str, name: str, tests: Sequence[TestFile], measure: str) -> tuple[Difference, Paired]:
        """The same for a report, not yet adjusted."""
        found = self.paired(one, other, tests, measure)
        seeds = self.shared(one, other)
        means = [float(self.of(one, test, measure, seeds).mean()) for test in tests] if seeds else [math.nan]
        low, high = found.interval
        made = Difference(
            arm=one, other=other, test=name, measure=measure, mean=float(np.mean(means)), difference=found.mean,
            error=found.error, low=low, high=high, p=found.p, seeds=len(seeds),
        )  # fmt: skip
        return made, found


def adjusted(found: Sequence[tuple[Difference, Paired]]) -> list[Difference]:
    """Differences that are read together, with Holm's p-values and the seeds that the undecided ones would take."""
    values = holm([one.p for one, _ in found])
    made = []
    for (one, what), p in zip(found, values, strict=True):
        decided = p < 0.05 or what.spread is None or not what.error > 0
        needed = None if decided else seeds_for(what.mean, what.spread, len(found))  # type: ignore[arg-type]
        made.append(one.model_copy(update={"p": p, "seeds_needed": needed}))
    return made


def groups(tests: Sequence[TestFile]) -> Mapping[str, Sequence[TestFile]]:
    """Name -> files: every file by itself and, where a measure has several, all of them. Unlike measures are never pooled."""
    found: dict[str, Sequence[TestFile]] = {test.name: [test] for test in tests}
    for measure in METRICS:
        if len(alike := [test for test in tests if test.measure == measure]) > 1:
            found[pooled_name(measure, alike)] = alike
    return found


def against(scores: Scores, arms: Sequence[str], baseline: str, tests: Sequence[TestFile]) -> tuple[Difference, ...]:
    """Every arm minus the baseline, on every file and group of files; those of one file are adjusted together."""
    found: list[Difference] = []
    for name, files in groups(tests).items():
        found += adjusted([scores.difference(arm, baseline, name, files, files[0].measure) for arm in arms])
    return tuple(found)


def beside(scores: Scores, arms: Sequence[str], baseline: str, tests: Sequence[TestFile]) -> tuple[Difference, ...]:
    """The same of the measures that are shown beside."""
    found: list[Difference] = []
    for test in tests:
        if test.beside:
            found += adjusted([scores.difference(arm, baseline, test.name, [test], test.beside) for arm in arms])
    return tuple(found)


def between(scores: Scores, arms: Sequence[str], tests: Sequence[TestFile]) -> tuple[Difference, ...]:
    """Every pair of some arms over all files of a measure, adjusted together."""
    whole = {
        name: files for name, files in groups(tests).items() if len(files) == sum(t.measure == files[0].measure for t in tests)
    }
    found: list[Difference] = []
    for name, files in whole.items():
        found += adjusted([scores.difference(one, other, name, files, files[0].measure) for one, other in combinations(arms, 2)])
    return tuple(found)
