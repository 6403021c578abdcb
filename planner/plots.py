"""Allocation maps of a Plan."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from planner.plan import Plan, PlannedSite
from planner.show import ranks
from spectra import InputError
from spectra.figures import style
from spectra.sites import place, short

READABLE = 400  # cells; beyond that numbers inside them would be dust


def allocation_figure(plan: Plan) -> Figure:
    """Total rank by layer and projection as a heat map, with the experts' ranks written in while there is room.

    Raises:
        InputError: the plan has no site inside a numbered layer.
    """
    cells: dict[tuple[str, int], dict[str, PlannedSite]] = {}
    for site in plan.sites:
        if where := place(site.name):
            cells.setdefault((where.stack, where.layer), {})[where.projection] = site
    if not cells:
        raise InputError(f"plan for {plan.model.name}: no site inside a numbered layer to plot")
    projections = list(dict.fromkeys(name for row in cells.values() for name in row))
    totals = np.array([[sum(row[name].ranks) if name in row else np.nan for name in projections] for row in cells.values()])
    with style():
        figure = Figure(figsize=(1.6 + 1.05 * len(projections), 1.4 + 0.36 * len(cells)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(totals, cmap="YlGnBu", aspect="auto", vmin=0)
        axes.grid(visible=False)
        axes.set_xticks(
            range(len(projections)), [short(name) for name in projections], rotation=25, ha="right", rotation_mode="anchor"
        )
        several = len({stack for stack, _ in cells}) > 1
        labels = [f"{stack} {layer}" if several else str(layer) for stack, layer in cells]
        axes.set_yticks(range(len(cells)), labels)
        axes.tick_params(length=0)
        axes.set(ylabel="layer", title=f"{plan.model.name}: {plan.strategy}, {plan.parameters:,} parameters")
        figure.colorbar(image, ax=axes, label="total rank", shrink=0.9, ticks=MaxNLocator(integer=True))
        if totals.size <= READABLE:
            _write_ranks(axes, cells, projections, float(np.nanmax(totals)))
    return figure


def _write_ranks(
    axes: Axes, cells: dict[tuple[str, int], dict[str, PlannedSite]], projections: list[str], largest: float
) -> None:
    for row, sites in enumerate(cells.values()):
        for column, name in enumerate(projections):
            if name in sites:
                dark = sum(sites[name].ranks) > 0.6 * largest
                look = {"ha": "center", "va": "center", "fontsize": 7, "color": "white" if dark else "black"}
                axes.text(column, row, ranks(sites[name].ranks), look)
