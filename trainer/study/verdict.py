"""What a study says, in three lines that need no other page: the budget, the plans, and what so many runs could show."""

import math

from trainer.evaluation.metrics import METRICS
from trainer.study.binding import told
from trainer.study.report import BASELINE, UNCOMPARED, Difference, StudyReport


def verdict(report: StudyReport) -> str:
    """Three lines; where the study stopped at its first question, the second says so."""
    return "\n".join((_budget(report), _plans(report), _means(report)))


def _budget(report: StudyReport) -> str:
    if report.binding is None:
        return "Whether the budget binds was not asked (`binding` skip)."
    return told(report.binding)


def _plans(report: StudyReport) -> str:
    if report.stopped:
        return (
            "No plans were compared: where size does not matter, place cannot either; `binding` note compares them all the same."
        )
    lines = [_on(report, name) for name in report.whole()]
    return " ".join(lines) + _among(report)


def _on(report: StudyReport, name: str) -> str:
    found = [one for one in report.differences if one.test == name and one.arm not in UNCOMPARED]
    better, worse = [one for one in found if one.better], [one for one in found if one.worse]
    where = f"On {name}, " if len(report.tests) > 1 or len(report.whole()) > 1 else ""
    said = [f"{one.arm} beats uniform LoRA by {_size(one)}" for one in better]
    said += [f"{one.arm} loses to uniform LoRA by {_size(one)}" for one in worse]
    rest = len(found) - len(better) - len(worse)
    if not said:
        if not found:
            return "There is no plan beside uniform LoRA."
        largest = max(found, key=lambda one: abs(one.difference) if math.isfinite(one.difference) else -1.0)
        no = "no" if where else "No"
        return f"{where}{no} plan is told apart from uniform LoRA; the largest difference is {largest.arm}'s, {_signed(largest)}."
    if rest:
        said.append(f"{rest} other{'s are' if rest > 1 else ' is'} not told apart from it")
    return f"{where}{'; '.join(said)}."


def _among(report: StudyReport) -> str:
    """What is known of the user's plans beside each other."""
    settled = [one for one in report.between if one.significant]
    if not settled:
        return ""
    said = [f"{one.arm} is {'better' if one.better else 'worse'} than {one.other} by {_size(one)}" for one in settled[:2]]
    more = f"; {len(settled) - 2} more pairs differ" if len(settled) > 2 else ""
    return f" Beside each other, {'; '.join(said)}{more}."


def _size(one: Difference) -> str:
    metric = METRICS[one.measure]
    # Of a settled difference both bounds have one sign; the words before say which.
    small, large = sorted(abs(bound) for bound in (one.low, one.high))
    size, low, high = (f"{metric.scale * value:.{metric.digits}f}" for value in (abs(one.difference), small, large))
    return f"{size} {metric.unit} ({low} to {high})"


def _signed(one: Difference) -> str:
    metric = METRICS[one.measure]
    mean, low, high = (f"{metric.scale * value:+.{metric.digits}f}" for value in (one.difference, one.low, one.high))
    return f"{mean} {metric.unit} ({low} to {high})"


def _means(report: StudyReport) -> str:
    runs, diverged = sum(arm.runs for arm in report.arms), sum(arm.diverged for arm in report.arms)
    examples = " + ".join(f"{test.examples:,}" for test in report.tests)
    said = [f"{report.seeds} seeds on {examples} examples; {diverged} of {runs} runs diverged"]
    if report.power is not None and math.isfinite(report.power.detectable):
        metric = METRICS[report.power.measure]
        size = f"{metric.scale * report.power.detectable:.{metric.digits}f} {metric.unit}"
        said.append(f"four of five such studies find a difference of {size}")
    tuning = [arm.tuning_seconds for arm in report.arms if arm.tuning_seconds > 0]
    training = [arm.training_seconds for arm in report.arms if arm.training_seconds > 0]
    if tuning and training:
        run, search = sum(training) / len(training), sum(tuning) / len(tuning)
        said.append(f"a run took {run:,.0f} s, the search for a plan's rate {search:,.0f} s")
    return (
        "; ".join(said) + f". Intervals know seeds and examples, p-values are Holm's, and {BASELINE} is plain LoRA of equal size."
    )
