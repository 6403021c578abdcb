"""The training curve of a run, beside what it reached on held-out data; and `draw`, which draws whatever a path holds."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from planner import Plan
from planner.plots import allocation_figure
from spectra import InputError, load_spectra
from spectra.figures import GREY, PALETTE, save_figure, style
from spectra.plots import alpha_figure, density_figure
from spectra.values import read_json
from trainer.reports import EVALUATION, REPORT, Evaluation, RunReport


def run_figure(run: str | Path) -> Figure:
    """Training loss by step and, if the run was evaluated, its accuracy (or loss, for a language model) beside the baselines.

    Raises:
        InputError: no finished run in this folder.
    """
    report = RunReport.load(Path(run) / REPORT)
    path = Path(run) / EVALUATION
    evaluation = Evaluation.load(path) if path.is_file() else None
    with style():
        figure = Figure(figsize=(7.2 if evaluation else 4.8, 3.0), layout="constrained")
        panels = figure.subplots(1, 2 if evaluation else 1, width_ratios=[1.6, 1] if evaluation else None, squeeze=False)[0]
        _draw_curve(panels[0], report)
        if evaluation:
            _draw_scores(panels[1], evaluation)
    return figure


def draw(source: str | Path, folder: str | Path) -> list[Path]:
    """Draw whatever a path holds: a spectra report, a plan, or the folder of a run.

    Returns:
        The files written, PNG and SVG of each figure.

    Raises:
        InputError: none of these.
    """
    source = Path(source)
    if source.is_dir():
        return save_figure(run_figure(source), folder, f"{source.resolve().name}-training")
    kind = _kind(source)
    if kind == "plan":
        return save_figure(allocation_figure(Plan.load(source)), folder, f"{source.stem}-allocation")
    report = load_spectra(source)
    paths = save_figure(alpha_figure(report), folder, f"{source.stem}-alpha")
    if any(site.density for site in report.sites):
        paths += save_figure(density_figure(report), folder, f"{source.stem}-density")
    return paths


def _kind(source: Path) -> str:
    if source.suffix == ".csv":
        return "spectra"
    data = read_json(source)
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in ("spectra", "plan"):
        raise InputError(f"{source}: cannot plot a file of kind {kind!r}; give a spectra report, a plan or the folder of a run")
    return str(kind)


def _draw_curve(axes: Axes, report: RunReport) -> None:
    axes.plot([point.step for point in report.curve], [point.loss for point in report.curve], color=PALETTE[0], lw=1.5)
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, None))
    axes.set_title(f"{report.strategy}: {report.adapter_parameters:,} adapter parameters")


def _draw_scores(axes: Axes, evaluation: Evaluation) -> None:
    classifies = not math.isnan(evaluation.trained.accuracy)
    rows = {"fine-tuned": evaluation.trained, "untrained": evaluation.untrained}
    if classifies:
        rows["majority class"] = evaluation.majority
    values = [100 * score.accuracy if classifies else score.loss for score in rows.values()]
    bars = axes.barh(list(rows), values, color=[PALETTE[0], *[GREY] * (len(rows) - 1)], height=0.6)
    axes.bar_label(bars, fmt="%.1f" if classifies else "%.3f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.set_title("held-out accuracy, %" if classifies else "held-out loss")
