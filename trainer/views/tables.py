"""Runs and evaluations for people."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table

from trainer.report import RunReport, Score
from trainer.study.report import BASELINE, StudyReport


def run_summary(report: RunReport) -> str:
    """What was trained on what, how fast, what it reached, and what to worry about."""
    settings = report.settings
    rows = "rows of packed texts" if settings.packing else "texts"
    truncated = f", {report.truncated:,} of them cut to {settings.max_length} tokens" if report.truncated else ""
    dropped = f", {report.dropped:,} left out because nothing to learn remained" if report.dropped else ""
    lines = [
        f"trained {report.adapter_parameters:,} adapter and {report.head_parameters:,} head parameters for {report.steps} steps"
        f" on {report.examples:,} {rows}{truncated}{dropped}; loss {_span(report)}",
        f"{_speed(report)}peak memory {report.peak_memory / 2**20:,.0f} MiB",
    ]
    if report.evaluations:
        best = min(report.evaluations, key=lambda point: point.loss)
        lines.append(f"best held-out loss {best.loss:.3f} at step {best.step}, last {report.evaluations[-1].loss:.3f}")
    if report.routes:
        support = sum(site.effective_support for site in report.routes) / len(report.routes)
        experts = sum(len(site.shares) for site in report.routes) / len(report.routes)
        lines.append(f"routing: {support:.1f} of {experts:.1f} experts do the work in the mean router")
    return "\n".join([*lines, *(f"note: {note}" for note in report.notes)])


def _span(report: RunReport) -> str:
    """Loss over the first and the last tenth of the run: a single batch says little."""
    losses = [point.loss for point in report.curve]
    tenth = max(1, len(losses) // 10)
    return f"{sum(losses[:tenth]) / tenth:.3f} -> {sum(losses[-tenth:]) / tenth:.3f}"


def _speed(report: RunReport) -> str:
    if math.isnan(report.tokens_per_second):
        return "resumed; "
    return f"{report.tokens_per_second:,.0f} tokens/s, {report.seconds:,.0f} s; "


def study_table(report: StudyReport) -> Table:
    """Every entrant: its size, its mean score, and its difference to uniform LoRA with its interval, per task."""
    accuracy = report.metric == "accuracy"
    scale, digits = (100, 2) if accuracy else (1, 3)
    title = f"{report.model.name}: {report.seeds} paired seeds, {report.metric if accuracy else 'loss per token'}"
    caption = "intervals hold for all plans of a task at once, with 95% probability; * excludes zero"
    caption += "" if accuracy else "\nplus means a lower loss than uniform LoRA"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("task", "plan"):
        table.add_column(heading)
    tuned = any(candidate.learning_rate not in (report.settings.learning_rate, math.nan) for candidate in report.candidates)
    for heading in ("parameters", *["learning rate"] * tuned, "mean", "difference to uniform LoRA"):
        table.add_column(heading, justify="right")
    of = {candidate.name: candidate for candidate in report.candidates}
    task = ""
    for one in report.differences:
        half = f"{scale * (one.high - one.low) / 2:.{digits}f}"
        gap = (
            "" if one.candidate == BASELINE else f"{scale * one.difference:+.{digits}f} +- {half}{' *' if one.settled else '  '}"
        )
        mean = f"{abs(scale * one.mean):.{digits}f} +- {scale * one.standard_error:.{digits}f}"  # of a loss the score is minus
        rate = [f"{of[one.candidate].learning_rate:g}"] * tuned
        table.add_row("" if one.task == task else one.task, one.candidate, f"{of[one.candidate].parameters:,}", *rate, mean, gap)
        task = one.task
    return table


def score_table(rows: Mapping[str, Score], examples: int, task: str = "") -> Table:
    """The scores of several answers to the same examples; a column for each score that somebody has."""
    columns = {
        "accuracy": lambda score: f"{100 * score.accuracy:.1f}%",
        "f1": lambda score: f"{100 * score.f1:.1f}%",
        "exact_match": lambda score: f"{100 * score.exact_match:.1f}%",
        "perplexity": lambda score: f"{score.perplexity:.2f}",
        "loss": lambda score: f"{score.loss:.3f}",
    }
    language = all(math.isnan(score.accuracy) for score in rows.values())
    shown = [
        name
        for name in columns
        if (language if name == "perplexity" else any(not math.isnan(getattr(score, name)) for score in rows.values()))
    ]
    heading = f"{task}: {examples:,} held-out texts" if task else f"{examples:,} held-out texts"
    table = Table("answer", title=heading, title_justify="left", box=box.SIMPLE_HEAD)
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for answer, score in rows.items():
        if not math.isnan(score.loss):
            cells = ("" if math.isnan(getattr(score, name)) else columns[name](score) for name in shown)
            table.add_row(answer, *cells)
    return table
