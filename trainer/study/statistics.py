"""Paired differences from the baseline, with intervals for all candidates at once."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.study.report import BASELINE, POOLED, Difference, Result

COVERAGE = 0.95


def differences(names: Sequence[str], results: Sequence[Result]) -> tuple[Difference, ...]:
    """Every candidate beside the baseline, per task and pooled.

    Args:
        names: the candidates, the baseline among them.
        results: one per candidate, seed and task.
    """
    tasks = list(dict.fromkeys(result.task for result in results))
    scores = {(result.candidate, result.task, result.seed): result.score for result in results}
    seeds = sorted({result.seed for result in results})
    found = []
    for task in [*tasks, *([POOLED] if len(tasks) > 1 else [])]:
        of_task = tasks if task == POOLED else [task]
        # (seeds,) for each candidate. Pooling is done within a seed, because the tasks of one run share its training.
        table = {name: np.array([[scores[name, one, seed] for one in of_task] for seed in seeds]).mean(axis=1) for name in names}
        found += [_difference(name, task, table, len(names) - 1) for name in names]
    return tuple(found)


def _difference(name: str, task: str, table: Mapping[str, np.ndarray], comparisons: int) -> Difference:
    # Seed by seed, so that what head and data order do to both drops out of the difference.
    mine, delta = table[name], table[name] - table[BASELINE]
    n = delta.size
    error = mine.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    mean = float(delta.mean())
    half = _quantile(n, comparisons) * delta.std(ddof=1) / math.sqrt(n) if n > 1 and name != BASELINE else math.nan
    # The baseline differs from itself by nothing, and that is certain.
    if name == BASELINE:
        half = 0.0
    return Difference(
        candidate=name,
        task=task,
        mean=float(mine.mean()),
        standard_error=float(error),
        difference=mean,
        low=mean - half,
        high=mean + half,
        seeds_needed=None if name == BASELINE or n < 2 or abs(mean) > half else _seeds_needed(delta, comparisons),
    )


def _quantile(n: int, comparisons: int) -> float:
    """Student's t with Bonferroni's correction for several comparisons with one baseline."""
    from scipy.stats import t  # takes a moment to import

    # Two-sided, hence halved; shared out among the comparisons.
    return float(t.ppf(1 - (1 - COVERAGE) / (2 * max(1, comparisons)), n - 1))


def _seeds_needed(delta: np.ndarray, comparisons: int) -> int | None:
    """The least n for which an interval of this spread would exclude zero."""
    spread, mean = float(delta.std(ddof=1)), abs(float(delta.mean()))
    # Searched, because the quantile depends on n as well; the spread is taken to stay what these seeds showed.
    for n in range(delta.size + 1, 1001):
        if _quantile(n, comparisons) * spread / math.sqrt(n) < mean:
            return n
    return None
