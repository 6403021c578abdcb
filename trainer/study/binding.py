"""Does the budget bind?

Where a plan of a quarter of the size loses nothing, and one of four times the size wins nothing, the place of the parameters
cannot matter either, and no comparison of plans will find anything.

Uniform LoRA is trained at a quarter of the plans' size, at all of it and at four times it, each at its own learning rate. While
the smallest loses nothing, a quarter of it is tried too.
"""

from collections.abc import Sequence
from itertools import pairwise

from spectra import Checkpoint, InputError
from trainer.evaluation.metrics import METRICS
from trainer.study.arms import Candidate, uniform_of
from trainer.study.differences import Scores, adjusted, groups
from trainer.study.report import BASELINE, Binding, Difference, Size, TestFile

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
    if checked.enough > smallest.parameters:
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
    pairs = list(pairwise(ordered))
    differences = adjusted([scores.difference(one.name, other.name, name, files, measure) for one, other in pairs])
    found = _sizes(scores, ordered, files, measure)
    sign = METRICS[measure].sign
    best = max(found, key=lambda size: sign * size.mean)
    alike = [size for size in found if sign * (best.mean - size.mean) <= (size.error if size.error > 0 else 0.0)]
    return Binding(
        test=name,
        measure=measure,
        sizes=tuple(found),
        differences=tuple(differences),
        # Only what lies around the plans' own size: that a sixteenth loses says nothing of the whole.
        binds=any(one.worse and whole.name in (one.arm, one.other) for one in differences),
        enough=min(size.parameters for size in alike),
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
    """The check in one sentence."""
    metric = METRICS[found.measure]
    first, last = found.sizes[0], found.sizes[-1]
    span = f"{first.parameters:,} to {last.parameters:,} parameters"
    if found.binds:
        steepest: Difference = max((one for one in found.differences if one.worse), key=lambda one: abs(one.difference))
        size = metric.scale * abs(steepest.difference)
        return f"The budget binds: from {span}, a step of {FACTOR} in size is worth up to {size:.{metric.digits}f} {metric.unit}."
    return (
        f"The budget does not bind: from {span} the {found.measure} of uniform LoRA does not differ by more than chance;"
        f" {found.enough:,} parameters lose nothing."
    )
