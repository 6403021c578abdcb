"""Paired differences of two arms, with intervals that know both sources of chance: the seeds that were run and the test examples.

Both arms are run with the same seeds and scored on the same examples, so every difference d[s, i] is of one seed and one example.
Seeds and examples are both drawn from many, so the mean over a study varies with either:

    d[s, i] = mean + seed[s] + example[i] + rest[s, i],   Var(mean of d) = V_seed / S + V_example / I + V_rest / (S I)

The mean squares of a two-way layout without replication estimate it without bias as (MS_seed + MS_example - MS_rest) / (S I); the
degrees of freedom are Satterthwaite's. An interval over seeds alone would say how well this test file is known, not how well the
arms are; one over examples alone would take one training run for the method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COVERAGE = 0.95
POWER = 0.8
ASSURED = 0.8
"""How sure a number of seeds should be to suffice, given how roughly a few pilot runs tell the spread."""
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What makes a mean difference vary, in mean squares over S I, so that each is the variance that it gives the mean."""

    seeds: int
    by_seed: float
    by_example: float
    by_rest: float
    freedom_of_seeds: float
    freedom_of_examples: float

    @property
    def variance(self) -> float:
        """Of the mean; never less than either source alone gives it."""
        return max(self.by_seed + self.by_example - self.by_rest, self.by_seed, self.by_example)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom; NaN without any spread."""
        if self.freedom_of_seeds < 2:  # of two seeds Satterthwaite's formula expects too much: its intervals hold 89% and not 95%
            return self.freedom_of_seeds
        of_rest = self.freedom_of_seeds * self.freedom_of_examples
        parts = ((self.by_seed, self.freedom_of_seeds), (self.by_example, self.freedom_of_examples), (self.by_rest, of_rest))
        below = sum(part**2 / freedom for part, freedom in parts if freedom > 0)
        return self.variance**2 / below if below else math.nan

    def with_seeds(self, seeds: int) -> "Spread":
        """The same arms and examples with another number of seeds."""
        share = self.seeds / seeds
        # What the examples themselves contribute stays; everything else is averaged over seeds.
        examples = max(0.0, self.by_example - self.by_rest)
        return Spread(
            seeds=seeds,
            by_seed=self.by_seed * share,
            by_example=examples + self.by_rest * share,
            by_rest=self.by_rest * share,
            freedom_of_seeds=seeds - 1,
            freedom_of_examples=self.freedom_of_examples,
        )

    def assured(self) -> "Spread":
        """This spread with seeds varying as much as they do with the probability `ASSURED` at most."""
        from scipy.stats import chi2  # takes a moment to import

        factor = self.freedom_of_seeds / float(chi2.ppf(1 - ASSURED, self.freedom_of_seeds))
        return Spread(
            seeds=self.seeds,
            by_seed=self.by_seed * factor,
            by_example=self.by_example,
            by_rest=self.by_rest,
            freedom_of_seeds=self.freedom_of_seeds,
            freedom_of_examples=self.freedom_of_examples,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A mean difference with its standard error; both are NaN where one seed tells nothing of the spread."""

    mean: float
    error: float
    freedom: float
    spread: Spread | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds that hold the true mean with a probability of 95%."""
        half = _quantile(1 - (1 - COVERAGE) / 2, self.freedom) * self.error
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """Two-sided, of no difference. NaN where nothing varies: a spread of zero settles nothing."""
        from scipy.stats import t

        return 2 * float(t.sf(abs(self.mean) / self.error, self.freedom)) if self.error > 0 else math.nan


def paired(tests: Sequence[Floats]) -> Paired:
    """The mean difference of two arms over one test file, or over several that count alike.

    Args:
        tests: for each file (seeds, examples), the differences; the same seeds in each, because one run is scored on all.
    """
    seeds, files = len(tests[0]), len(tests)
    per_seed = np.mean([test.mean(axis=1) for test in tests], axis=0)
    mean = float(per_seed.mean())
    if seeds < 2:
        return Paired(mean=mean, error=math.nan, freedom=math.nan)
    by_example = by_rest = freedom_below = 0.0
    for test in tests:
        examples = test.shape[1]
        if examples < 2:
            continue  # one example says nothing of how examples vary
        of_example = float(test.mean(axis=0).var(ddof=1)) / examples / files**2
        rest = test - test.mean(axis=1, keepdims=True) - test.mean(axis=0, keepdims=True) + test.mean()
        by_rest += float(np.square(rest).sum()) / ((seeds - 1) * (examples - 1)) / (seeds * examples) / files**2
        by_example += of_example
        freedom_below += of_example**2 / (examples - 1)
    spread = Spread(
        seeds=seeds,
        by_seed=float(per_seed.var(ddof=1)) / seeds,
        by_example=by_example,
        by_rest=by_rest,
        freedom_of_seeds=seeds - 1,
        freedom_of_examples=by_example**2 / freedom_below if freedom_below else 1.0,
    )
    return Paired(mean=mean, error=math.sqrt(spread.variance), freedom=spread.freedom, spread=spread)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: those below 0.05 are wrong altogether with a probability of at most 0.05.

    NaN stays NaN and counts as a comparison that was made (Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    order = sorted(range(len(values)), key=lambda position: math.inf if math.isnan(values[position]) else values[position])
    adjusted, largest = [math.nan] * len(values), 0.0
    for done, position in enumerate(order):
        if not math.isnan(values[position]):
            largest = max(largest, min(1.0, (len(values) - done) * values[position]))
            adjusted[position] = largest
    return adjusted


def detectable(spread: Spread, comparisons: int) -> float:
    """The difference that a study of this spread finds in four of five cases, with so many comparisons."""
    return (_critical(spread, comparisons) + _quantile(POWER, spread.freedom)) * math.sqrt(spread.variance)


def seeds_for(difference: float, spread: Spread, comparisons: int) -> int | None:
    """The least number of seeds that finds a difference in four of five cases; None if a thousand would not.

    Args:
        difference: its size.
        spread: of the study, or of a pilot.
        comparisons: among which the chance of a false finding is shared.
    """
    low, high = 2, MOST_SEEDS
    if detectable(spread.with_seeds(high), comparisons) > abs(difference):
        return None
    while low < high:
        middle = (low + high) // 2
        enough = detectable(spread.with_seeds(middle), comparisons) <= abs(difference)
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def _critical(spread: Spread, comparisons: int) -> float:
    return _quantile(1 - (1 - COVERAGE) / (2 * max(1, comparisons)), spread.freedom)


def _quantile(probability: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, freedom))
