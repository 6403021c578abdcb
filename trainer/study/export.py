"""A study's tables for papers and spreadsheets: CSV, Markdown and LaTeX, written beside study.json."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectra.core.files import write_atomic
from trainer.evaluation.metrics import METRICS
from trainer.study.report import BASELINE, Difference, StudyReport
from trainer.study.verdict import verdict

TABLES = {"csv": "study.csv", "md": "study.md", "tex": "study.tex"}
COLUMNS = (
    "test", "measure", "plan", "parameters", "learning rate", "mean", "difference", "low", "high", "p", "seeds", "diverged",
    "probing s", "tuning s", "training s", "peak MiB",
)  # fmt: skip


def write_tables(report: StudyReport, folder: Path) -> list[Path]:
    """Write all three."""
    rows = list(_rows(report))
    texts = {"csv": _csv(rows), "md": _markdown(report, rows), "tex": _latex(report, rows)}
    for kind, text in texts.items():
        write_atomic(folder / TABLES[kind], text)
    return [folder / name for name in TABLES.values()]


def _rows(report: StudyReport) -> Iterator[tuple[Difference, list[str]]]:
    """A row for every arm on every test: numbers in the measure's own unit, nothing where nothing is known."""
    for one in (*report.differences, *report.beside):
        metric, arm = METRICS[one.measure], report.arm(one.arm)
        number = f".{metric.digits + 1}f"
        own = one.arm == BASELINE
        values = [one.mean, *([math.nan] * 3 if own else [one.difference, one.low, one.high])]
        shown = [_number(metric.scale * value, number) for value in values]
        p = _number(math.nan if own else one.p, ".3g")
        times = [_number(value, ".1f") for value in (arm.probing_seconds, arm.tuning_seconds, arm.training_seconds)]
        yield (
            one,
            [
                one.test, one.measure, one.arm, str(arm.parameters), _number(arm.learning_rate, "g"), *shown, p,
                str(one.seeds), str(arm.diverged), *times, _number(arm.peak_memory / 2**20 or math.nan, ".0f"),
            ],
        )  # fmt: skip


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _csv(rows: Sequence[tuple[Difference, list[str]]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(cells for _, cells in rows)
    return text.getvalue()


def _markdown(report: StudyReport, rows: Sequence[tuple[Difference, list[str]]]) -> str:
    lines = [f"# {report.model.name}", "", *verdict(report).splitlines(), *_sizes(report)]
    if rows:
        lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for one, cells in rows:
        bold = [f"**{cell}**" if number == 2 and one.significant else cell for number, cell in enumerate(cells)]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in bold) + " |")
    return "\n".join(lines) + "\n"


def _sizes(report: StudyReport) -> Iterator[str]:
    """Uniform LoRA by size, each beside the largest."""
    if report.binding is None:
        return
    metric, largest = METRICS[report.binding.measure], report.binding.sizes[-1].arm
    beside = {one.arm: one for one in report.binding.differences if one.other == largest}
    heads = (f"{report.binding.test}, uniform LoRA", report.binding.measure, "minus the largest", "low", "high", "p")
    yield from ("", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads))
    number = f".{metric.digits + 1}f"
    for size in report.binding.sizes:
        one = beside.get(size.arm)
        values = [metric.scale * value for value in (one.difference, one.low, one.high)] if one else [math.nan] * 3
        cells = [f"{metric.scale * size.mean:{number}}", *(_number(value, number) for value in values)]
        yield f"| {size.parameters:,} | " + " | ".join(cells) + f" | {_number(one.p if one else math.nan, '.3g')} |"


def _latex(report: StudyReport, rows: Sequence[tuple[Difference, list[str]]]) -> str:
    r"""A booktabs table of plan, size, mean and difference; an asterisk where Holm's p is below 0.05."""
    lines = [
        f"% {report.model.name}: " + " ".join(verdict(report).split("\n")),
        r"\begin{tabular}{llrrrr}", r"\toprule",
        r"test & plan & parameters & mean & difference & 95\% interval \\", r"\midrule",
    ]  # fmt: skip
    for one, cells in rows:
        test, _, plan, size, _, mean, difference, low, high = (_escaped(cell) for cell in cells[:9])
        star = "$^{*}$" if one.significant else ""
        interval = f"[{low}, {high}]" if low else ""
        lines.append(rf"{test} & {plan} & {int(size):,} & {mean} & {difference}{star} & {interval} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    for character in "\\&%$#_{}":
        text = text.replace(character, r"\textbackslash{}" if character == "\\" else f"\\{character}")
    return text
