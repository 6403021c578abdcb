"""Allocation maps of plans beside the evidence behind them, and sensitivity reports."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from planner.plan import Plan
from planner.sensitivity.report import SensitivityReport
from planner.views.tables import format_ranks
from spectra import InputError
from spectra.views.figures import MARKERS, PALETTE, heat_map, style
from spectra.views.layer_grid import Panel, layer_grid, limits

DECIDED = ("total rank", "weight")
READABLE = 400  # cells; beyond that numbers inside them would be dust


def allocation_figure(plan: Plan) -> Figure:
    """Total rank by layer and projection, with the experts' ranks written in while there is room; routed experts on their own.

    Raises:
        InputError: the plan has no site inside a numbered layer.
    """
    shown = _panels_of({site.name: float(sum(site.ranks)) for site in plan.sites}, f"plan for {plan.model.name}")
    written = {site.name: format_ranks(site.ranks) for site in plan.sites}
    most = max(1.0, limits(shown)[1])
    with style():
        figure = _canvas(shown)
        for axes, one in zip(figure.subplots(1, len(shown), squeeze=False, width_ratios=_widths(shown))[0], shown, strict=True):
            image = heat_map(axes, one, "YlGnBu", (0.0, most))
            if one.values.size <= READABLE and not one.title:
                _write(axes, one, written, 0.6 * most)
        figure.suptitle(f"{plan.model.name}: {plan.strategy}, {plan.parameters:,} parameters", x=0.01, ha="left", fontsize=10)
        figure.colorbar(image, ax=figure.axes, label="total rank", shrink=0.9, ticks=MaxNLocator(integer=True))
    return figure


def evidence_figure(plan: Plan) -> Figure | None:
    """The plan's evidence beside its decision: total rank, weight, alpha and sensitivity; None without evidence.

    Routed experts have a row of their own, with the share of tokens that reach them, drawn for one of their projections.
    """
    both = [_panels(plan, routed) for routed in (False, True)]
    rows = [panels for panels in both if len(panels) > 2]  # more than what the plan itself says
    if not rows:
        return None
    across, tall = max(map(len, rows)), [_height(panels[0][1]) for panels in rows]
    with style():
        figure = Figure(figsize=(1.0 + 2.4 * across, sum(tall)), layout="constrained")
        grid = figure.subplots(len(rows), across, squeeze=False, height_ratios=tall)
        for axes in grid.flat:
            axes.set_visible(False)  # rows may be of unequal length
        for line, panels in zip(grid, rows, strict=True):
            for axes, (title, one) in zip(line, panels, strict=False):
                axes.set_visible(True)
                image = heat_map(axes, one, "YlGnBu" if title in DECIDED else "viridis", limits([one]))
                axes.set_title(f"{title}\n{one.title}" if one.title else title)
                if one.title:  # narrow panels have room for few experts' numbers
                    apart = -(-len(one.columns) // 8)
                    axes.set_xticks(range(0, len(one.columns), apart), one.columns[::apart])
                figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def _panels(plan: Plan, routed: bool) -> list[tuple[str, Panel]]:
    """Panels of the ordinary sites, or of the first projection of routed experts."""
    sites = [site for site in plan.sites if site.routed == routed]
    panels = {
        "total rank": {site.name: float(sum(site.ranks)) for site in sites},
        "weight": {site.name: site.weight for site in sites},
        "share of tokens": {site.name: site.token_share for site in sites},
        "alpha": {site.name: site.alpha for site in sites},
        f"log10 {plan.settings.statistic}": {site.name: _log10(site.sensitivity) for site in sites},
        # Per parameter of an adapter.
        "trial run: loss reduction": {site.name: site.loss_reduction / sum(site.shape) for site in sites},
    }
    known = {title: values for title, values in panels.items() if any(math.isfinite(value) for value in values.values())}
    return [(title, _panels_of(values, "plan")[0]) for title, values in known.items()]


def sensitivity_figure(report: SensitivityReport) -> Figure:
    """Squared gradient per parameter as a heat map for each task, and how far two samples of growing size agree.

    Raises:
        InputError: no site inside a numbered layer.
    """
    panels = [
        replace(one, title=f"{task.name}: {one.title}" if one.title else task.name)
        for number, task in enumerate(report.tasks)
        for one in _panels_of(
            {site.name: _log10(site.per_parameter()[number].mean) for site in report.sites}, "sensitivity report"
        )
    ]
    curves = [task for task in report.tasks if task.stability]
    with style():
        figure = Figure(figsize=(1.2 + 3.0 * (len(panels) + bool(curves)), max(3.0, _height(panels[0]))), layout="constrained")
        axes = figure.subplots(1, len(panels) + bool(curves), squeeze=False)[0]
        for one, ax in zip(panels, axes, strict=False):
            image = heat_map(ax, one, "viridis", limits(panels))
        figure.colorbar(image, ax=list(axes[: len(panels)]), label="log10 squared gradient per parameter", shrink=0.9)
        if curves:
            _draw_stability(axes[-1], report)
    return figure


def usage_figure(report: SensitivityReport) -> Figure:
    """Share of the tokens that choose each of the base's routed experts, a row for each layer: of learned tokens and of all."""
    used = [site for site in report.sites if site.usage]
    shares = {
        title: {site.name: sum(getattr(task, field) for task in site.usage) / len(site.usage) for site in used}
        for title, field in (("of learned tokens", "token_share"), ("of all tokens", "all_share"))
    }
    known = {title: values for title, values in shares.items() if any(math.isfinite(value) for value in values.values())}
    # Its projections share an expert's tokens, so one stands for all.
    panels = [replace(_panels_of(values, "sensitivity report")[0], title=title) for title, values in known.items()]
    with style():
        figure = Figure(figsize=(1.2 + 3.4 * len(panels), max(2.4, _height(panels[0]))), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        top = (0.0, max(limits(panels)[1], 1e-9))
        for one, ax in zip(panels, axes, strict=True):
            image = heat_map(ax, one, "YlGnBu", top)
        axes[0].set_xlabel("routed expert")
        figure.colorbar(image, ax=list(axes), label="share of tokens", shrink=0.9)
    return figure


def _draw_stability(axes: Axes, report: SensitivityReport) -> None:
    for number, task in enumerate(report.tasks):
        sizes = [entry.examples for entry in task.stability]
        look = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)], "ms": 4, "lw": 1.3}
        axes.plot(sizes, [entry.rank_correlation for entry in task.stability], label=f"{task.name}: ranks", **look)  # type: ignore[arg-type]
        axes.plot(sizes, [entry.overlap for entry in task.stability], ls=":", label=f"{task.name}: top half", **look)  # type: ignore[arg-type]
    axes.set_xscale("log", base=2)
    every = sorted({entry.examples for task in report.tasks for entry in task.stability})
    axes.set_xticks(every, [str(size) for size in every])
    axes.set(
        xlabel="examples per sample", title="agreement of two samples, chance = 0", ylim=(min(0.0, axes.get_ylim()[0]), 1.02)
    )
    axes.legend(fontsize=7)


def _panels_of(values: Mapping[str, float], what: str) -> list[Panel]:
    shown = layer_grid(values).panels(values)
    if not shown:
        raise InputError(f"{what}: no site inside a numbered layer to plot")
    return shown


def _canvas(shown: list[Panel]) -> Figure:
    return Figure(figsize=(1.6 + sum(_widths(shown)), max(map(_height, shown))), layout="constrained")


def _widths(shown: list[Panel]) -> list[float]:
    return [min(7.0, 0.6 + (0.18 if one.title else 1.05) * len(one.columns)) for one in shown]


def _height(one: Panel) -> float:
    return 1.4 + min(9.0, 0.36 * len(one.rows))


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def _write(axes: Axes, one: Panel, written: Mapping[str, str], dark: float) -> None:
    for (row, column), name in np.ndenumerate(one.names):
        if name:
            look = {
                "ha": "center",
                "va": "center",
                "fontsize": 7,
                "color": "white" if one.values[row, column] > dark else "black",
            }
            axes.text(column, row, written[str(name)], look)
