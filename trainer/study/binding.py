"""Does the budget bind?

Where a plan of a quarter of the size loses nothing, and one of four times the size wins nothing, the place of the parameters
cannot matter either, and no comparison of plans will find anything.

Uniform LoRA is trained at a quarter of the plans' size, at all of it and at four times it, each at its own learning rate. Every
size is compared with every larger one, and all pairs are adjusted together, so a budget that does not bind is called binding in
one check of twenty at most. While the smallest size is worse than none, a quarter of it is tried too.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from spectra import Checkpoint, InputError
from trainer.evaluation.metrics import METRICS
from trainer.study.arms import Candidate, uniform_of
from trainer.study.differences import Scores, adjusted, groups
from trainer.study.report import BASELINE, Binding, Size, TestFile
from trainer.study.statistics import detectable

FACTOR = 4
SMALLER = 3
"""Quarters of quarters at most."""


def sized(size: int, checkpoint: Checkpoint) -> Candidate | None:
    """Uniform LoRA of a size; None where the model has no even plan of about that size."""
    try:
        plan = uniform_of(size, checkpoint)
    except InputError:
        return None
    # The limits on ranks end what a large budget buys, and too coarse a step what a small one does.
    return Candidate(name=f"{BASELINE}-{plan.parameters}", plan=plan, own=False) if plan.parameters >= 0.7 * size else None


def neighbours(size: int, checkpoint: Checkpoint) -> list[Candidate]:
    """The sizes beside the plans' own that the check begins with."""
    found = [sized(size // FACTOR, checkpoint), sized(size * FACTOR, checkpoint)]
    return [candidate for candidate in found if candidate is not None]


def next_smaller(checked: Binding, checkpoint: Checkpoint) -> Candidate | None:
    """A size to try next, while the smallest so far loses nothing."""
    smallest = checked.sizes[0]
    if checked.binds or checked.enough > smallest.parameters or len(checked.sizes) >= 3 + SMALLER:
        return None
    return sized(smallest.parameters // FACTOR, checkpoint)


def check(scores: Scores, sizes: Sequence[Candidate], whole: Candidate, tests: Sequence[TestFile]) -> Binding:
    """What the runs of some sizes say.

    Args:
        scores: theirs.
        sizes: all, the plans' own among them.
        whole: the plans' own.
        tests: held-out files; those of the first measure decide.
    """
    name, files = list(groups([test for test in tests if test.measure == tests[0].measure]).items())[-1]
    measure, ordered = files[0].measure, sorted(sizes, key=lambda candidate: candidate.plan.parameters)
    pairs = [scores.difference(one.name, other.name, name, files, measure) for one, other in combinations(ordered, 2)]
    differences = adjusted(pairs)
    losers = {one.arm for one in differences if one.worse}  # a size that a larger one beats
    own = ordered.index(whole)
    spreads = [paired.spread for _, paired in pairs if paired.spread is not None and paired.error > 0]
    return Binding(
        test=name,
        measure=measure,
        sizes=tuple(_sizes(scores, ordered, files, measure)),
        differences=tuple(differences),
        # Only what lies around the plans' own size: that a sixteenth loses says nothing of the whole.
        binds=any(candidate.name in losers for candidate in ordered[max(0, own - 1) : own + 1]),
        enough=min(candidate.plan.parameters for candidate in ordered if candidate.name not in losers),
        detectable=max((detectable(spread, len(pairs)) for spread in spreads), default=math.nan),
    )


def _sizes(scores: Scores, ordered: Sequence[Candidate], files: Sequence[TestFile], measure: str) -> list[Size]:
    means = {
        candidate.name: sum(float(scores.of(candidate.name, file, measure).mean()) for file in files) / len(files)
        for candidate in ordered
    }
    best = max(means, key=lambda name: METRICS[measure].sign * means[name])
    return [
        Size(
            arm=candidate.name,
            parameters=candidate.plan.parameters,
            mean=means[candidate.name],
            error=0.0 if candidate.name == best else scores.paired(candidate.name, best, files, measure).error,
        )
        for candidate in ordered
    ]


def told(found: Binding) -> str:
    """The check in one sentence or two."""
    metric, last = METRICS[found.measure], found.sizes[-1]

    def shown(value: float) -> str:
        return f"{metric.scale * abs(value):.{metric.digits}f} {metric.unit}"

    if found.binds:
        sizes = {size.arm: size.parameters for size in found.sizes}
        steepest = max((one for one in found.differences if one.worse), key=lambda one: abs(one.difference))
        return (
            f"The budget binds: uniform LoRA of {sizes[steepest.arm]:,} parameters loses {shown(steepest.difference)} to"
            f" {sizes[steepest.other]:,}."
        )
    seen = f", where {shown(found.detectable)} would be found in four of five checks" if math.isfinite(found.detectable) else ""
    return (
        f"The budget does not bind: uniform LoRA of {found.enough:,} parameters is not told apart from any of up to"
        f" {last.parameters:,}{seen}."
    )
