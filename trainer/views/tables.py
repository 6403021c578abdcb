"""Runs and evaluations for people."""

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from planner.views.tables import most_used
from spectra.checkpoint.names import parse_name, short_name
from trainer.evaluation.metrics import METRICS, Metric
from trainer.report import Evaluation, RunReport, Scores
from trainer.study.report import BASELINE, StudyReport

UNEVEN = 8  # routers that a table shows
LEFT: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD}


def run_summary(report: RunReport) -> str:
    """Size, data, speed, losses and routing of a run, and its notes."""
    settings = report.settings
    rows = "rows of packed texts" if settings.packing else "texts"
    truncated = f", {report.truncated:,} of them cut to {settings.max_length} tokens" if report.truncated else ""
    dropped = f", {report.dropped:,} left out because nothing to learn remained" if report.dropped else ""
    routers = f", {report.base_router_parameters:,} of the base's routers" if report.base_router_parameters else ""
    lines = [
        f"trained {report.adapter_parameters:,} adapter and {report.head_parameters:,} head parameters"
        f"{routers} for {report.steps} steps"
        f" on {report.examples:,} {rows}{truncated}{dropped}; loss {_span(report)}",
        f"{_speed(report)}peak memory {report.peak_memory / 2**20:,.0f} MiB",
    ]
    if found := report.rate_search:
        rates = sorted({one.learning_rate for one in found.tried})
        lines.append(
            f"learning rate {found.learning_rate:g}, the best of {len(rates)} from {rates[0]:g} to {rates[-1]:g}:"
            f" {found.steps} steps in short runs, {found.seconds:,.0f} s"
        )
    if report.evaluations:
        best = min(report.evaluations, key=lambda point: point.loss)
        lines.append(f"best held-out loss {best.loss:.3f} at step {best.step}, last {report.evaluations[-1].loss:.3f}")
    if report.routers:
        support = sum(site.effective_support for site in report.routers) / len(report.routers)
        experts = sum(len(site.shares) for site in report.routers) / len(report.routers)
        lines.append(f"routing: {support:.1f} of {experts:.1f} experts do the work in the mean router{_turned_away(report)}")
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def _turned_away(report: RunReport) -> str:
    """What capacity limits did, if they did anything."""
    found = [(site.dropped, site.unserved) for site in report.routers if not math.isnan(site.dropped)]
    dropped, unserved = (sum(part) / len(found) if found else 0.0 for part in zip(*found, strict=True)) if found else (0.0, 0.0)
    return f"; {dropped:.1%} of picks were turned away, {unserved:.1%} of tokens got no expert" if dropped else ""


def place_of(name: str) -> str:
    """Layer and projection of a router; its name outside any layer."""
    where = parse_name(name)
    return f"{where.layer} {short_name(where.projection)}" if where else name


def load_tables(report: RunReport) -> list[Table]:
    """How routers shared out their tokens at the end of a run, the most uneven ones; none without routers."""
    if not report.routers:
        return []
    order = sorted(report.routers, key=lambda site: site.effective_support / len(site.shares))[:UNEVEN]
    which = f"the {UNEVEN} most uneven of {len(report.routers)} routers" if len(report.routers) > UNEVEN else "every router"
    title = f"load at the end of the run, {which}: share of the routing weight at learned tokens, in brackets at all"
    table = Table("router", "experts", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("experts at work", "picks turned away", "tokens without an expert"):
        table.add_column(heading, justify="right")
    for site in order:
        learned = site.learned_shares or site.shares
        shares = dict(enumerate(zip(learned, site.shares, strict=True)))
        known = ["" if math.isnan(share) else f"{share:.1%}" for share in (site.dropped, site.unserved)]
        table.add_row(place_of(site.site), most_used(shares), f"{site.effective_support:.1f} of {len(site.shares)}", *known)
    return [table]


def _span(report: RunReport) -> str:
    """Loss over the first and the last tenth of the run: a single batch says little."""
    losses = [point.loss for point in report.curve]
    tenth = max(1, len(losses) // 10)
    return f"{sum(losses[:tenth]) / tenth:.3f} -> {sum(losses[-tenth:]) / tenth:.3f}"


def _speed(report: RunReport) -> str:
    if math.isnan(report.tokens_per_second):
        return "resumed; "
    return f"{report.tokens_per_second:,.0f} tokens/s, {report.seconds:,.0f} s; "


def study_tables(report: StudyReport) -> list[Table]:
    """Whether the budget binds, and every arm with its difference from uniform LoRA on each test."""
    found = [_size_table(report)] if report.binding else []
    if report.differences:
        found += [_difference_table(report), _cost_table(report)]
    return found


def _size_table(report: StudyReport) -> Table:
    found = report.binding
    assert found
    metric = METRICS[found.measure]
    table = Table(title=f"{report.model.name}: uniform LoRA by size, {found.measure} on {found.test}", **LEFT)
    for heading in ("parameters", "mean", "from the next smaller size", "p"):
        table.add_column(heading, justify="right")
    steps = {(one.arm, one.other): one for one in found.differences}
    for size, below in zip(found.sizes, [None, *found.sizes], strict=False):
        step = steps.get((below.arm, size.arm)) if below else None
        mean = f"{metric.scale * size.mean:.{metric.digits}f}"
        # The report has the smaller minus the larger; a reader goes up.
        shown = _interval(metric, -step.difference, -step.high, -step.low) if step else ""
        table.add_row(f"{size.parameters:,}", mean, shown, f"{step.p:.3g}" if step else "")
    return table


def _difference_table(report: StudyReport) -> Table:
    title = f"{report.model.name}: {report.seeds} paired seeds, difference from uniform LoRA"
    caption = "95% intervals over seeds and examples; p adjusted by Holm for the plans of a test, * below 0.05"
    table = Table(title=title, caption=caption, caption_justify="left", **LEFT)
    for heading in ("test", "plan"):
        table.add_column(heading)
    for heading in ("parameters", "rate", "mean", "difference", "p"):
        table.add_column(heading, justify="right")
    last = ""
    for one in (*report.differences, *report.beside):
        metric, arm = METRICS[one.measure], report.arm(one.arm)
        test = f"{one.test}, {one.measure}" if METRICS[one.measure].unit else one.test
        mean = f"{metric.scale * one.mean:.{metric.digits}f}"
        own = one.arm == BASELINE
        shown = "" if own else _interval(metric, one.difference, one.low, one.high)
        p = "" if own or math.isnan(one.p) else f"{one.p:.2g}{' *' if one.significant else '  '}"
        table.add_row("" if test == last else test, arm.name, f"{arm.parameters:,}", f"{arm.learning_rate:g}", mean, shown, p)
        last = test
    return table


def _cost_table(report: StudyReport) -> Table:
    table = Table(title="what it took", **LEFT)
    table.add_column("plan")
    for heading in ("probing s", "choosing the rate s", "a run s", "peak MiB", "diverged"):
        table.add_column(heading, justify="right")
    for arm in report.arms:
        times = (arm.probing_seconds, arm.tuning_seconds, arm.training_seconds)
        shown = ("" if math.isnan(time) else f"{time:,.0f}" for time in times)
        table.add_row(arm.name, *shown, f"{arm.peak_memory / 2**20:,.0f}", f"{arm.diverged} of {arm.runs}")
    return table


def _interval(metric: Metric, mean: float, low: float, high: float) -> str:
    if math.isnan(low):  # one seed, or not a single example that the two answer otherwise
        return "unknown" if math.isnan(mean) else f"{metric.scale * mean:+.{metric.digits}f} (nothing varies)"
    middle, low, high = (f"{metric.scale * value:+.{metric.digits}f}" for value in (mean, low, high))  # type: ignore[assignment]
    return f"{middle} ({low} to {high})"


def score_table(rows: Mapping[str, Scores], examples: int, task: str = "") -> Table:
    """The scores of several answers to the same examples; a column for each metric that somebody has."""
    shown = [name for name in METRICS if any(name in scores for scores in rows.values())]
    heading = f"{task}: {examples:,} held-out texts" if task else f"{examples:,} held-out texts"
    table = Table("answer", title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for answer, scores in rows.items():
        table.add_row(answer, *(format(scores[name], METRICS[name].form) if name in scores else "" for name in shown))
    return table


def evaluation_tables(result: Evaluation, more: Mapping[str, Scores] | None = None) -> list[Table]:
    """The scores over all examples, and of every held-out file where there are several.

    Args:
        result: what `plan evaluate` wrote.
        more: further answers to the same examples, shown after the fine-tuned model's.
    """
    first, *rest = result.rows().items()
    whole = score_table(dict([first, *(more or {}).items(), *rest]), result.examples)
    tasks = result.tasks if len(result.tasks) > 1 else ()
    return [whole, *(score_table(task.rows(), task.examples, task.name) for task in tasks)]
