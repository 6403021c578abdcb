"""Does the budget bind?

Where a plan of a quarter of the size loses nothing, and one of four times the size wins nothing, the place of the parameters
cannot matter either, and no comparison of plans will find anything.

Uniform LoRA is trained at a quarter of the plans' size, at all of it and at four times it, each at its own learning rate, and
every size is compared with every larger one. That two sizes are not told apart does not make them alike: a few seeds are blind to
much. So there are three answers. The budget binds where a larger size is better by more than chance; it does not where the 95%
intervals leave no more than `NEGLIGIBLE` to lose; and otherwise it cannot be told, and the study goes on.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from spectra import Checkpoint, InputError
from trainer.evaluation.metrics import METRICS
from trainer.study.arms import Candidate, uniform_of
from trainer.study.differences import Scores, adjusted, groups
from trainer.study.report import BASELINE, Binding, Difference, Size, TestFile

FACTOR = 4
SMALLER = 3
"""Quarters of quarters at most."""
NEGLIGIBLE = 0.01
"""What a size may lose and still lose nothing, in nats per token or as a share of right answers; plans win 0.01 to 0.02."""


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
    if checked.enough > smallest.parameters or len(checked.sizes) >= 3 + SMALLER:
        return None
    return sized(smallest.parameters // FACTOR, checkpoint)


def check(scores: Scores, sizes: Sequence[Candidate], whole: Candidate, tests: Sequence[TestFile]) -> Binding:
    """What the runs of some sizes say.

    Args:
        scores: theirs.
        sizes: all, the plans' own among them.
        whole: the plans' own.
        tests: held-out files; those of the first measure decide.

    Raises:
        InputError: no run of the plans' own size that has not diverged.
    """
    name, files = list(groups([test for test in tests if test.measure == tests[0].measure]).items())[-1]
    if whole.name not in scores.runs:
        raise InputError(f"every run of {whole.name} diverged; give a smaller `learning_rate`")
    # A size whose runs all diverged is no size that loses nothing.
    finished = [candidate for candidate in sizes if candidate.name in scores.runs]
    measure, ordered = files[0].measure, sorted(finished, key=lambda candidate: candidate.plan.parameters)
    pairs = [scores.difference(one.name, other.name, name, files, measure) for one, other in combinations(ordered, 2)]
    differences = adjusted(pairs)
    beaten = {one.arm for one in differences if one.worse}  # by a larger size
    possible = {candidate.name: 0.0 for candidate in ordered}
    for one in differences:
        possible[one.arm] = max(possible[one.arm], _most_lost(one))
    own = ordered.index(whole)
    # Only what lies around the plans' own size: that a sixteenth loses says nothing of the whole.
    near = [candidate.name for candidate in ordered[max(0, own - 1) : own + 1]]
    most = max(possible[name] for name in near)
    settled = len(ordered) > 1 and most <= NEGLIGIBLE
    return Binding(
        test=name,
        measure=measure,
        sizes=tuple(_sizes(scores, ordered, files, measure)),
        differences=tuple(differences),
        binds=True if beaten & {*near} else False if settled else None,
        enough=min(candidate.plan.parameters for candidate in ordered if possible[candidate.name] <= NEGLIGIBLE),
        possible=most if math.isfinite(most) else math.nan,
    )


def _most_lost(one: Difference) -> float:
    """The most that a smaller size may lose to a larger one, by the interval; infinite where nothing varies or is known."""
    bound = -one.low if METRICS[one.measure].higher_is_better else one.high
    return bound if math.isfinite(bound) else math.inf


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
    metric, last = METRICS[found.measure], found.sizes[-1].parameters

    def shown(value: float) -> str:
        return f"{metric.scale * abs(value):.{metric.digits}f} {metric.unit}"

    if found.binds:
        sizes = {size.arm: size.parameters for size in found.sizes}
        steepest = max((one for one in found.differences if one.worse), key=lambda one: abs(one.difference))
        lost, larger = shown(steepest.difference), sizes[steepest.other]
        return f"The budget binds: uniform LoRA of {sizes[steepest.arm]:,} parameters loses {lost} to {larger:,}."
    if found.binds is None:
        much = f" of up to {shown(found.possible)}" if math.isfinite(found.possible) else ""
        return f"Whether the budget binds cannot be told: so few runs leave a loss{much} to larger sizes possible."
    least = shown(NEGLIGIBLE)
    return (
        f"The budget does not bind: uniform LoRA of {found.enough:,} parameters loses less than {least} to any of up to {last:,}."
    )
