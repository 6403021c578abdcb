"""The one dispatcher over everything that loraplan writes: which text, tables and figures a document has.

A new kind of document is one row. Figures and their libraries are loaded when they are drawn, so looking at a plan stays instant.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from planner import Plan, SensitivityReport
from planner.views.tables import plan_summary, plan_table, sensitivity_tables, stability_lines, trial_run_lines
from spectra import InputError, SpectraReport, load_spectra
from spectra.checkpoint.names import resolve
from spectra.core.documents import Document
from spectra.core.files import read_json, write_atomic
from spectra.views.tables import overview
from trainer.report import Evaluation, GrowthHistory, RunReport
from trainer.run_folder import EVALUATION, HISTORY, PLAN, REPORT
from trainer.study.report import STUDY, StudyReport
from trainer.study.verdict import verdict
from trainer.views.tables import evaluation_tables, load_tables, run_summary, study_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures = Iterator[tuple[str, "Figure"]]
"""The last part of a figure's file name, and the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A row of the table: how one kind of document is shown. Each function is given the document's path."""

    load: Callable[[Path], Document]
    text: Callable[[Path], list[str]]
    tables: Callable[[Path], list[Table]]
    figures: Callable[[Path], Figures]
    parts: Callable[[Path], list[Path]] = lambda path: []
    """Further documents that belong to it, such as the plan of a run."""


def _spectra_text(path: Path) -> list[str]:
    return [part for part in overview(load_spectra(path)) if isinstance(part, str)]


def _spectra_tables(path: Path) -> list[Table]:
    return [part for part in overview(load_spectra(path)) if isinstance(part, Table)]


def _spectra_figures(path: Path) -> Figures:
    from spectra.views.plots import alpha_figure, density_figure, heat_figure

    report = load_spectra(path)
    yield "alpha", alpha_figure(report)
    yield "heatmap", heat_figure(report)
    if any(site.density for site in report.sites):
        yield "density", density_figure(report)


def _sensitivity_text(path: Path) -> list[str]:
    report = SensitivityReport.load(path)
    return [*stability_lines(report).splitlines(), *trial_run_lines(report)]


def _sensitivity_figures(path: Path) -> Figures:
    from planner.views.plots import sensitivity_figure, usage_figure

    report = SensitivityReport.load(path)
    yield "sensitivity", sensitivity_figure(report)
    if any(site.usage for site in report.sites):
        yield "routing", usage_figure(report)


def _plan_figures(path: Path) -> Figures:
    from planner.views.plots import allocation_figure, evidence_figure

    plan = Plan.load(path)
    if plan.parameters:
        yield "allocation", allocation_figure(plan)
    if evidence := evidence_figure(plan):
        yield "evidence", evidence


def _run_tables(path: Path) -> list[Table]:
    file = path / EVALUATION
    scores = evaluation_tables(Evaluation.load(file)) if file.is_file() else []
    return [*load_tables(RunReport.load(path / REPORT)), *scores]


def _run_figures(path: Path) -> Figures:
    from trainer.views.plots import GROWTH, growth_figure, load_figure, run_figure

    file, report = path / EVALUATION, RunReport.load(path / REPORT)
    yield "training", run_figure(report, Evaluation.load(file) if file.is_file() else None)
    if report.routers:
        yield "load", load_figure(report)
    if (path / HISTORY).is_file():
        history = GrowthHistory.load(path / HISTORY)
        for what in GROWTH:
            yield f"growth-{what}", growth_figure(history, what)


def _study_figures(path: Path) -> Figures:
    from trainer.views.plots import sizes_figure, study_figure

    report = StudyReport.load(path)
    if report.binding:
        yield "sizes", sizes_figure(report)
    if report.differences:
        yield "differences", study_figure(report)


def _study_plans(path: Path) -> list[Path]:
    return sorted((path.parent / "plans").glob("*.json"))


DOCUMENTS: dict[str, View] = {
    "spectra": View(load=load_spectra, text=_spectra_text, tables=_spectra_tables, figures=_spectra_figures),
    "sensitivity": View(
        load=SensitivityReport.load,
        text=_sensitivity_text,
        tables=lambda path: sensitivity_tables(SensitivityReport.load(path)),
        figures=_sensitivity_figures,
    ),
    "plan": View(
        load=Plan.load,
        text=lambda path: plan_summary(Plan.load(path)).splitlines(),
        tables=lambda path: [plan_table(Plan.load(path))],
        figures=_plan_figures,
    ),
    "run": View(
        load=lambda path: RunReport.load(path / REPORT),
        text=lambda path: run_summary(RunReport.load(path / REPORT)).splitlines(),
        tables=_run_tables,
        figures=_run_figures,
        parts=lambda path: [path / PLAN],
    ),
    "study": View(
        load=StudyReport.load,
        text=lambda path: verdict(StudyReport.load(path)).splitlines(),
        tables=lambda path: study_tables(StudyReport.load(path)),
        figures=_study_figures,
        parts=_study_plans,
    ),
}


def find_document(source: str | Path) -> tuple[str, Path]:
    """Find the document at a path: a run is a folder, a study's folder stands for the report in it.

    Raises:
        InputError: nothing that can be shown.
    """
    path = Path(source)
    if path.is_dir() and (path / STUDY).is_file():
        path = path / STUDY
    if path.is_dir():
        # Only for its refusal: a folder that is no run is said to be none before anything is drawn.
        RunReport.load(path / REPORT)
        return "run", path
    # A table of alphas, from `analyze --csv` or weightwatcher, stands for a spectra report.
    if path.suffix == ".csv":
        return "spectra", path
    data = read_json(path, finite=True)
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in DOCUMENTS:
        known = ", ".join(name for name in DOCUMENTS if name != "run")
        raise InputError(f"{path}: a file of kind {kind!r} cannot be shown; give one of kind {known}, or a run's folder")
    # A run is its folder, whichever of the two was given.
    return str(kind), path.parent if kind == "run" else path


def draw(sources: Sequence[str | Path], folder: str | Path) -> Iterator[Path]:
    """Draw whatever some paths hold; neighbouring spectra reports of one architecture are also compared.

    Yields:
        The files written, PNG and SVG of each figure.

    Raises:
        InputError: a path that holds nothing to draw.
    """
    from spectra.views.figures import drawing, rendered
    from spectra.views.plots import comparison_figure

    found = [find_document(source) for source in sources]  # all of them, before the first figure is drawn
    names = _names([path for _, path in found])
    # All figures before the first file: of documents that cannot be drawn nothing is left.
    made = [figure for name, (kind, path) in zip(names, found, strict=True) for figure in _drawn(name, kind, path)]
    reports: list[tuple[str, SpectraReport]] = [
        (name, load_spectra(path)) for name, (kind, path) in zip(names, found, strict=True) if kind == "spectra"
    ]
    for (name, one), (others_name, other) in pairwise(reports):
        if resolve(one.by_name(), list(other.by_name())):  # two models of one architecture, not just two models
            with drawing(f"{name} and {others_name}"):
                made.append((f"{name}-{others_name}-comparison", rendered(comparison_figure(one, other))))
    for name, contents in made:
        for suffix, content in contents.items():
            path = Path(folder) / f"{name}.{suffix}"
            write_atomic(path, content)
            yield path


def _drawn(name: str, kind: str, path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """Name and files of each of a document's figures."""
    from spectra.views.figures import drawing, rendered

    with drawing(path):
        return [(f"{name}-{ending}", rendered(figure)) for ending, figure in DOCUMENTS[kind].figures(path)]


def _names(paths: Sequence[Path]) -> list[str]:
    """Names for each document's figures: its own, after those of as many folders above it as tell it from the others."""
    found = [path.absolute() for path in paths]
    whole = [[*path.parent.parts[1:], path.name if path.is_dir() else path.stem] for path in found]
    return [_shortest(parts, [other for other in whole if other != parts]) for parts in whole]


def _shortest(parts: list[str], others: list[list[str]]) -> str:
    """The last parts of a path, as many as no other path ends in."""
    lengths = range(1, len(parts) + 1)
    length = next((n for n in lengths if all(other[-n:] != parts[-n:] for other in others)), len(parts))
    return "-".join(parts[-length:])
