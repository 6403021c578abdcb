"""Figures of runs and studies: the training curve beside what was reached, ranks as they grew, differences from the baseline."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spectra.checkpoint.names import parse_name
from spectra.views.figures import GREY, PALETTE, heat_map, style
from spectra.views.layer_grid import Panel
from trainer.evaluation.metrics import METRICS
from trainer.report import Evaluation, GrowthEvent, GrowthHistory, RunReport
from trainer.study.report import BASELINE, UNCOMPARED, StudyReport
from trainer.views.tables import place_of


def run_figure(report: RunReport, evaluation: Evaluation | None = None) -> Figure:
    """Training loss by step and, if the run was evaluated, its accuracy (or loss, for a language model) beside what is free."""
    with style():
        figure = Figure(figsize=(7.2 if evaluation else 4.8, 3.0), layout="constrained")
        panels = figure.subplots(1, 2 if evaluation else 1, width_ratios=[1.6, 1] if evaluation else None, squeeze=False)[0]
        _draw_curve(panels[0], report)
        if evaluation:
            _draw_scores(panels[1], evaluation)
    return figure


def load_figure(report: RunReport) -> Figure:
    """Share of the routing weight of every expert at the end of a run, a row for each router, over an even share."""
    widest = max(len(site.shares) for site in report.routers)
    values = np.full((len(report.routers), widest), np.nan)
    for row, site in enumerate(report.routers):
        values[row, : len(site.shares)] = np.array(site.learned_shares or site.shares) * len(site.shares)
    panel = Panel(
        title="share of the routing weight at learned tokens, even share = 1",
        rows=tuple(place_of(site.site) for site in report.routers),
        columns=tuple(str(expert) for expert in range(widest)),
        values=values,
        names=np.full(values.shape, ""),
    )
    with style():
        figure = Figure(figsize=(4.2 + 0.12 * min(widest, 40), 1.4 + 0.16 * min(len(panel.rows), 60)), layout="constrained")
        axes = figure.subplots()
        # Centred at an even share; twice of it and more is the other end.
        image = heat_map(axes, panel, "RdBu_r", (0.0, 2.0))
        axes.set(ylabel="", xlabel="expert")
        figure.colorbar(image, ax=axes, extend="max", shrink=0.9)
    return figure


GROWTH = {"ranks": "rank", "shares": "share of the routing weight", "saliency": "saliency"}


def growth_figure(history: GrowthHistory, what: str = "ranks") -> Figure:
    """The history of a grown run: a panel for each layer, a line for each expert, coloured where it ended with the most rank.

    Args:
        history: what the run wrote.
        what: `ranks`, `shares` (of the routing weight) or `saliency`.
    """
    events = history.events
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
        # Before anything was observed a group has no shares; NaN leaves a gap in the line.
        values = [(getattr(event, what)[layer] or [math.nan] * len(final))[expert] for event in events]
        # An event sets what holds until the next one.
        axes.step(steps, values, where="post", color=PALETTE[0] if rank == max(final) else GREY, lw=1, alpha=0.8)
    where = parse_name(layer)
    axes.set(title=f"layer {where.layer}" if where else layer, xlabel="step")
    if what == "ranks":
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # A logarithmic axis with nothing above zero would be empty.
    if what == "saliency" and any(value > 0 for event in events for value in event.saliency[layer]):
        axes.set_yscale("log")


def study_figure(report: StudyReport) -> Figure:
    """Differences from uniform LoRA with their intervals, a panel for each test and for all of a measure."""
    tests = list(dict.fromkeys(one.test for one in report.differences))
    names = [name for name in dict.fromkeys(one.arm for one in report.differences) if name not in UNCOMPARED]
    with style():
        figure = Figure(figsize=(1.6 + 2.6 * len(tests), 1.4 + 0.34 * len(names)), layout="constrained")
        for test, axes in zip(tests, figure.subplots(1, len(tests), squeeze=False, sharey=True)[0], strict=True):
            shown = {one.arm: one for one in report.differences if one.test == test}
            metric = METRICS[next(iter(shown.values())).measure]
            for row, name in enumerate(names):
                one = shown[name]
                color = PALETTE[0] if one.better else PALETTE[5] if one.worse else GREY
                middle, low, high = (metric.scale * value for value in (one.difference, one.low, one.high))
                axes.errorbar(middle, row, xerr=[[middle - low], [high - middle]], fmt="o", ms=4, color=color, capsize=3, lw=1.3)
            axes.axvline(0, color="black", lw=0.8)
            axes.set_yticks(range(len(names)), names)
            # From the top down, in the order of the table.
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set(title=test, xlabel=f"{metric.unit} ({'more' if metric.higher_is_better else 'less'} is better)")
        figure.suptitle("difference from uniform LoRA, 95% intervals; grey: not told apart", x=0.01, ha="left", fontsize=10)
    return figure


TITLES = {True: "the budget binds", False: "the budget does not bind", None: "whether the budget binds cannot be told"}


def sizes_figure(report: StudyReport) -> Figure:
    """Uniform LoRA by size: does the budget bind?"""
    assert report.binding
    found = report.binding
    metric = METRICS[found.measure]
    with style():
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.subplots()
        sizes = [size.parameters for size in found.sizes]
        means = [metric.scale * size.mean for size in found.sizes]
        errors = [metric.scale * (0.0 if math.isnan(size.error) else size.error) for size in found.sizes]
        axes.errorbar(sizes, means, yerr=errors, fmt="o-", ms=4, color=PALETTE[0], capsize=3, lw=1.3)
        axes.axvline(report.arm(BASELINE).parameters, color=GREY, lw=0.8, ls=":")
        axes.set_xscale("log", base=4)
        axes.minorticks_off()
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=20)
        axes.set(xlabel="trainable parameters of uniform LoRA", ylabel=f"{found.measure} on {found.test}")
        axes.set_title(TITLES[found.binds])
    return figure


def _draw_curve(axes: Axes, report: RunReport) -> None:
    axes.plot([point.step for point in report.curve], [point.loss for point in report.curve], color=PALETTE[0], lw=1.5)
    axes.set(xlabel="step", ylabel="training loss")
    axes.margins(y=0.08)
    axes.set_title(f"{report.strategy}: {report.adapter_parameters:,} adapter parameters")


def _draw_scores(axes: Axes, evaluation: Evaluation) -> None:
    """Bars of the first metric that the fine-tuned model has."""
    name = next(name for name in METRICS if name in evaluation.trained and METRICS[name].compared)
    metric, rows = METRICS[name], {answer: found for answer, found in evaluation.rows().items() if name in found}
    percent = metric.form.endswith("%")
    values = [(100 if percent else 1) * found[name] for found in rows.values()]
    bars = axes.barh(list(rows), values, color=[PALETTE[0], *[GREY] * (len(rows) - 1)], height=0.6)
    axes.bar_label(bars, fmt="%.1f" if percent else "%.3f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.2)
    axes.set_title(f"held-out {name.replace('_', ' ')}{', %' if percent else ''}")
