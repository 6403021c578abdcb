"""A data report for people: on a terminal, and as a page."""

from collections.abc import Iterator

from jinja2 import Environment
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trainer.preview.report import DataReport, Shown

BAR = 40  # characters of the longest bar
MOST = 1500  # characters of an example on a terminal: the beginning and the end of longer ones
OPENS, CLOSES = "⟦", "⟧"


def summary(report: DataReport) -> Iterator[RenderableType]:
    """What the file is, how long its examples are, and a few of them.

    What is learned is bold and green, and between brackets, which a pipe keeps.
    """
    yield "\n".join(_lines(report))
    if report.lengths:
        yield _histogram(report)
    if report.cuts:
        yield _cuts(report)
    for number, shown in enumerate(report.shown, start=1):
        yield Text(f"example {number}, about row {shown.row}; what is learned stands between {OPENS} and {CLOSES}", style="bold")
        yield _example(shown)


def _lines(report: DataReport) -> Iterator[str]:
    ignored = f"; ignored columns: {', '.join(report.ignored)}" if report.ignored else ""
    yield f"{report.file}: {report.rows:,} rows, read as {report.format}, for {report.task}{ignored}"
    if report.task == "causal":
        whole = report.learned_tokens + report.other_tokens
        share = report.learned_tokens / whole if whole else 0.0
        several = "" if report.examples == report.rows else f" in {report.examples:,} examples"
        yield f"{whole:,} tokens of {report.model}{several}, of which {report.learned_tokens:,} ({share:.0%}) are learned"
    if report.labels:
        yield "labels: " + ", ".join(f"{label} {count:,}" for label, count in report.labels.items())
    yield f"duplicates: {report.duplicates:,} of {report.rows:,} rows say what an earlier one does"
    for same in report.overlap:
        yield (
            f"overlap: of {same.of:,} rows of {same.file}, {same.rows:,} are in this file, and the prompts of {same.prompts:,}"
        )
    if report.settings.template_option:
        yield f"the chat template is given {report.settings.template_option}"


def _histogram(report: DataReport) -> Table:
    most = max(one.examples for one in report.lengths)
    table = Table(title="tokens per example", box=box.SIMPLE, title_justify="left")
    for name in ("tokens", "examples"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in report.lengths:
        span = f"{one.least:,}" if one.least == one.most else f"{one.least:,} to {one.most:,}"
        table.add_row(span, f"{one.examples:,}", "█" * max(round(BAR * one.examples / most), one.examples > 0))
    return table


def _cuts(report: DataReport) -> Table:
    table = Table(title="what a maximum length would do", box=box.SIMPLE, title_justify="left")
    for name in ("max length", "cut", "left out"):
        table.add_column(name, justify="right")
    for one in report.cuts:
        used = " (auto)" if one.max_length == report.settings.max_length else ""
        table.add_row(f"{one.max_length:,}{used}", f"{one.cut:,}", f"{one.left_out:,}")
    return table


def _example(shown: Shown) -> Text:
    text = Text()
    for stretch in shown.stretches:
        said = f"{OPENS}{stretch.text}{CLOSES}" if stretch.learned else stretch.text
        text.append(said, style="bold green" if stretch.learned else "dim")
    if len(text) <= MOST:
        return text
    half = MOST // 2
    return Text.assemble(text[:half], Text(f" … {len(text) - MOST:,} letters … ", style="italic"), text[-half:])


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ report.file }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
pre { white-space: pre-wrap; background: #f6f6f4; padding: 1rem; border-radius: 6px; }
mark { background: #c9ecd2; color: #0b4d22; border-radius: 3px; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; text-align: right; } td.bar { text-align: left; color: #2b6cb0; }
</style></head><body><h1>{{ report.file }}</h1>
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
{% if report.lengths %}<h2>Tokens per example</h2><table>{% for one in report.lengths %}
<tr><td>{{ one.least }} to {{ one.most }}</td><td>{{ one.examples }}</td><td class="bar">{{ "█" * ((40 * one.examples / most) | round | int) }}</td></tr>
{% endfor %}</table>{% endif %}
{% if report.cuts %}<h2>What a maximum length would do</h2><table><tr><th>max length</th><th>cut</th><th>left out</th></tr>
{% for one in report.cuts %}<tr><td>{{ one.max_length }}</td><td>{{ one.cut }}</td><td>{{ one.left_out }}</td></tr>{% endfor %}</table>{% endif %}
{% if report.shown %}<h2>Examples</h2><p>What is learned is <mark>marked</mark>.</p>{% endif %}
{% for shown in report.shown %}<h3>about row {{ shown.row }}</h3>
<pre>{% for part in shown.stretches %}{% if part.learned %}<mark>{{ part.text }}</mark>{% else %}{{ part.text }}{% endif %}{% endfor %}</pre>
{% endfor %}</body></html>
"""  # noqa: E501


def page(report: DataReport) -> str:
    """The report as one self-contained HTML page."""
    most = max((one.examples for one in report.lengths), default=1)
    # What is in a file is text, never markup.
    return Environment(autoescape=True).from_string(PAGE).render(report=report, lines=list(_lines(report)), most=most)
