"""The training curve of a run, beside what it reached on held-out data; and `draw`, which draws whatever a path holds."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from planner import Plan, SensitivityReport
from planner.views.plots import allocation_figure, evidence_figure, sensitivity_figure
from spectra import InputError, SpectraReport, load_spectra
from spectra.checkpoint.names import parse_name, resolve
from spectra.core.files import read_json
from spectra.views.figures import GREY, PALETTE, save_figure, style
from spectra.views.plots import alpha_figure, comparison_figure, density_figure, heat_figure
from trainer.report import Evaluation, GrowthEvent, GrowthHistory, RunReport
from trainer.run_folder import EVALUATION, HISTORY, REPORT
from trainer.study.report import BASELINE, STUDY, StudyReport


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


GROWTH = {"ranks": "rank", "shares": "share of the routing weight", "saliency": "saliency"}


def growth_figure(run: str | Path, what: str = "ranks") -> Figure:
    """The history of a grown run: a panel for each layer, a line for each expert, coloured where it ended with the most rank.

    Args:
        run: the run's folder.
        what: `ranks`, `shares` (of the routing weight) or `saliency`.

    Raises:
        InputError: the run did not grow.
    """
    events = GrowthHistory.load(Path(run) / HISTORY).events
    layers = list(events[-1].ranks)
    across = min(4, len(layers))
    down = -(-len(layers) // across)
    with style():
        figure = Figure(figsize=(1.0 + 2.3 * across, 0.8 + 1.9 * down), layout="constrained")
        for number, (layer, axes) in enumerate(zip(layers, figure.subplots(down, across, squeeze=False).ravel(), strict=False)):
            _draw_growth(axes, events, layer, what)
            if number % across == 0:
                axes.set_ylabel(f"an expert's {GROWTH[what].split(' of')[0]}")
        for axes in figure.axes[len(layers) :]:
            axes.set_axis_off()
        figure.suptitle(f"{GROWTH[what]} of every expert", x=0.01, ha="left", fontsize=10)
    return figure


def _draw_growth(axes: Axes, events: Sequence[GrowthEvent], layer: str, what: str) -> None:
    final, steps = events[-1].ranks[layer], [event.step for event in events]
    for expert, rank in sorted(enumerate(final), key=lambda pair: pair[1]):  # the coloured ones on top
        values = [(getattr(event, what)[layer] or [math.nan] * len(final))[expert] for event in events]
        axes.step(steps, values, where="post", color=PALETTE[0] if rank == max(final) else GREY, lw=1, alpha=0.8)
    where = parse_name(layer)
    axes.set(title=f"layer {where.layer}" if where else layer, xlabel="step")
    if what == "ranks":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if what == "saliency" and any(value > 0 for event in events for value in event.saliency[layer]):
        axes.set_yscale("log")


def study_figure(report: StudyReport) -> Figure:
    """Differences to uniform LoRA with their intervals, a panel for each task."""
    points = 100 if report.metric == "accuracy" else 1
    tasks = list(dict.fromkeys(one.task for one in report.differences))
    names = [candidate.name for candidate in report.candidates if candidate.name not in (BASELINE, "head-only")]
    with style():
        figure = Figure(figsize=(1.6 + 2.4 * len(tasks), 1.2 + 0.34 * len(names)), layout="constrained")
        for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0], strict=True):
            shown = {one.candidate: one for one in report.differences if one.task == task}
            for row, name in enumerate(names):
                one = shown[name]
                color = GREY if not one.settled else PALETTE[0] if one.difference > 0 else PALETTE[5]
                half = points * (one.high - one.low) / 2
                axes.errorbar(points * one.difference, row, xerr=half, fmt="o", ms=4, color=color, capsize=3, lw=1.3)
            axes.axvline(0, color="black", lw=0.8)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set(title=task, xlabel="points of accuracy" if points == 100 else "nats per token less")
        figure.suptitle("difference to uniform LoRA, 95% intervals for all plans at once", x=0.01, ha="left", fontsize=10)
    return figure


def draw(sources: Sequence[str | Path], folder: str | Path) -> Iterator[Path]:
    """Draw whatever some paths hold: spectra reports, plans, folders of runs; two reports are also compared.

    Yields:
        The files written, PNG and SVG of each figure.

    Raises:
        InputError: a path that holds none of these.
    """
    reports: list[tuple[str, SpectraReport]] = []
    sources = [Path(source) / STUDY if (Path(source) / STUDY).is_file() else Path(source) for source in sources]
    for source in map(Path, sources):  # all of them, before the first figure is drawn
        kind_of(source)
    for name, source in zip(_names(sources), map(Path, sources), strict=True):
        if source.is_dir():
            yield from save_figure(run_figure(source), folder, f"{name}-training")
            if (source / HISTORY).is_file():
                for what in GROWTH:
                    yield from save_figure(growth_figure(source, what), folder, f"{name}-growth-{what}")
        elif kind_of(source) == "plan":
            yield from _draw_plan(name, Plan.load(source), folder)
        elif kind_of(source) == "study":
            yield from save_figure(study_figure(StudyReport.load(source)), folder, f"{name}-differences")
        elif kind_of(source) == "sensitivity":
            yield from save_figure(sensitivity_figure(SensitivityReport.load(source)), folder, f"{name}-sensitivity")
        else:
            reports.append((name, load_spectra(source)))
            yield from _draw_report(*reports[-1], folder)
    for (name, one), (others_name, other) in pairwise(reports):
        if resolve(one.by_name(), list(other.by_name())):  # two models of one architecture, not just two models
            yield from save_figure(comparison_figure(one, other), folder, f"{name}-{others_name}-comparison")


def _draw_plan(name: str, plan: Plan, folder: str | Path) -> Iterator[Path]:
    yield from save_figure(allocation_figure(plan), folder, f"{name}-allocation")
    if evidence := evidence_figure(plan):
        yield from save_figure(evidence, folder, f"{name}-evidence")


def _draw_report(name: str, report: SpectraReport, folder: str | Path) -> Iterator[Path]:
    yield from save_figure(alpha_figure(report), folder, f"{name}-alpha")
    yield from save_figure(heat_figure(report), folder, f"{name}-heatmap")
    if any(site.density for site in report.sites):
        yield from save_figure(density_figure(report), folder, f"{name}-density")


def _names(sources: Sequence[str | Path]) -> list[str]:
    """What each source's figures are called: its own name, after its folder's where two sources share one."""
    paths = [Path(source).absolute() for source in sources]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    return [f"{path.parent.name}-{name}" if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)]


def kind_of(source: Path) -> str:
    """What a path holds: `spectra`, `sensitivity`, `plan`, `study` or, a folder, `run`.

    Raises:
        InputError: none of these.
    """
    if source.is_dir():
        RunReport.load(source / REPORT)
        return "run"
    if source.suffix == ".csv":
        return "spectra"
    data = read_json(source)
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in ("spectra", "sensitivity", "plan", "study"):
        raise InputError(
            f"{source}: a file of kind {kind!r} has no figures; give a spectra or sensitivity report, a plan or a run's folder"
        )
    return str(kind)


def _draw_curve(axes: Axes, report: RunReport) -> None:
    axes.plot([point.step for point in report.curve], [point.loss for point in report.curve], color=PALETTE[0], lw=1.5)
    axes.set(xlabel="step", ylabel="training loss")
    axes.margins(y=0.08)
    axes.set_title(f"{report.strategy}: {report.adapter_parameters:,} adapter parameters")


def _draw_scores(axes: Axes, evaluation: Evaluation) -> None:
    classifies = not math.isnan(evaluation.trained.accuracy)
    rows = {"fine-tuned": evaluation.trained, "untrained": evaluation.untrained}
    if classifies:
        rows["majority class"] = evaluation.majority
    rows = {name: score for name, score in rows.items() if not math.isnan(score.loss)}
    values = [100 * score.accuracy if classifies else score.loss for score in rows.values()]
    bars = axes.barh(list(rows), values, color=[PALETTE[0], *[GREY] * (len(rows) - 1)], height=0.6)
    axes.bar_label(bars, fmt="%.1f" if classifies else "%.3f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.set_title("held-out accuracy, %" if classifies else "held-out loss")
