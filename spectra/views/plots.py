"""Layer-quality plots of spectra reports: by depth, as heat maps, spectral densities, and two models side by side."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.checkpoint.names import parse_name, resolve, short_name
from spectra.core.errors import InputError
from spectra.report import SiteSpectrum, SpectraReport
from spectra.views.figures import GREY, MARKERS, PALETTE, heat_map, style
from spectra.views.layer_grid import LayerGrid, layer_grid
from spectra.views.tables import OVER_TRAINED, UNDER_TRAINED


def alpha_figure(report: SpectraReport) -> Figure:
    """Alpha against depth, one line per projection with its uncertainty, and the layer mean.

    Bars are bootstrap intervals if the report has them, else one standard error; experts of one projection are averaged.

    Raises:
        InputError: no site inside a numbered layer has an alpha.
    """
    grid, alphas = layer_grid(report.by_name()), report.alphas()
    means = [grid.mean(alphas, row) for row in grid.rows]
    if not np.isfinite(means).any():
        raise InputError(f"{report.model.name}: no alpha inside a numbered layer to plot")
    with style():
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        if report.estimator == "clauset":  # the band is weightwatcher's and means nothing for another estimator
            band = f"{OVER_TRAINED:g} to {UNDER_TRAINED:g}:\nwell trained\n(weightwatcher)"
            axes.axhspan(OVER_TRAINED, UNDER_TRAINED, color="#edf1f4", zorder=0, label=band)
        for number, column in enumerate(grid.columns):
            _draw_projection(axes, report, grid, column, number)
        axes.plot(range(len(means)), means, color="black", lw=2.2, label="layer mean", zorder=5)
        _name_layers(axes, list(grid.rows))
        axes.set(title=f"{report.model.name}: power-law exponent by layer ({report.estimator})", xlabel="layer", ylabel="alpha")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _draw_projection(axes: Axes, report: SpectraReport, grid: LayerGrid, column: str, number: int) -> None:
    sites, alphas = report.by_name(), report.alphas()
    means = np.array([grid.mean(alphas, row, column) for row in grid.rows])
    bars = np.array([_bar([sites[name] for name in cells.get(column, ())]) for cells in grid.rows.values()]).T
    look: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
    axes.errorbar(range(means.size), means, bars, label=short_name(column), lw=1, ms=4, elinewidth=0.7, alpha=0.9, **look)


def _bar(sites: Sequence[SiteSpectrum]) -> tuple[float, float]:
    """How far the bar of a cell reaches down and up; nothing for several experts, whose spread is no error."""
    if len(sites) != 1:
        return 0.0, 0.0
    (site,) = sites
    interval = site.uncertainty.interval
    reach = (site.alpha - interval.low, interval.high - site.alpha) if interval else (site.sigma, site.sigma)
    # A percentile interval need not contain the estimate, and a failed fit has no bar at all.
    return max(0.0, np.nan_to_num(reach[0])), max(0.0, np.nan_to_num(reach[1]))


def _name_layers(axes: Axes, layers: Sequence[str]) -> None:
    step = max(1, len(layers) // 16)
    axes.set_xticks(range(0, len(layers), step), layers[::step])


def heat_figure(report: SpectraReport) -> Figure:
    """Alpha as a heat map: layers by projections, and for each projection of routed experts layers by experts.

    Raises:
        InputError: no site inside a numbered layer.
    """
    grid, alphas = layer_grid(report.by_name()), report.alphas()
    if not grid.rows:
        raise InputError(f"{report.model.name}: no matrix inside a numbered layer to plot")
    title = f"{report.model.name}: alpha ({report.estimator})"
    panels = [replace(grid.whole(alphas), title=title), *grid.by_expert(alphas)]
    finite = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    # A single outlier would otherwise take all the colours.
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (0.0, 1.0)
    with style():
        across = min(2, len(panels))
        down = -(-len(panels) // across)
        size = (1.2 + 4.8 * across, (1.6 + 0.24 * len(grid.rows)) * down)
        figure = Figure(figsize=size, layout="constrained")
        drawn = figure.subplots(down, across, squeeze=False).ravel()[: len(panels)]
        for axes, panel in zip(drawn, panels, strict=True):
            image = heat_map(axes, panel, "viridis", (float(low), float(high)))
        figure.colorbar(image, ax=list(drawn), label="alpha", shrink=0.9)
    return figure


def comparison_figure(one: SpectraReport, other: SpectraReport) -> Figure:
    """Two models, or two checkpoints of one run: layer means by depth, and every matrix of one against the same of the other.

    Raises:
        InputError: different estimators, or no matrix that both have.
    """
    if one.estimator != other.estimator:
        raise InputError(f"cannot compare alphas of {one.estimator} and {other.estimator}: each estimator has a scale of its own")
    theirs = other.by_name()
    names = resolve(one.by_name(), list(theirs))
    pairs = np.array([(site.alpha, theirs[names[site.name]].alpha) for site in one.sites if site.name in names])
    if not len(pairs) or not np.isfinite(pairs).all(axis=1).any():
        raise InputError(f"{one.model.name} and {other.model.name} have no analysed matrix in common")
    with style():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        depth, scatter = figure.subplots(1, 2, width_ratios=[1.5, 1])
        for report, colour in ((one, PALETTE[0]), (other, PALETTE[5])):
            grid, alphas = layer_grid(report.by_name()), report.alphas()
            means = [grid.mean(alphas, row) for row in grid.rows]
            depth.plot(means, color=colour, marker="o", ms=3, label=_label(report, one, other))
            _name_layers(depth, list(grid.rows))
        depth.set(title=f"layer mean of alpha ({one.estimator})", xlabel="layer", ylabel="alpha")
        depth.legend()
        limits = [np.nanmin(pairs), np.nanmax(pairs)]
        scatter.plot(limits, limits, color=GREY, lw=0.9, zorder=0)
        scatter.scatter(*pairs.T, s=9, color=PALETTE[2], alpha=0.8, lw=0)
        scatter.set(title="every matrix", xlabel=_label(one, one, other), ylabel=_label(other, one, other), aspect="equal")
    return figure


def _label(report: SpectraReport, one: SpectraReport, other: SpectraReport) -> str:
    if one.model.name != other.model.name:
        return report.model.name
    return f"{report.model.name}, {'first' if report is one else 'second'}"


def density_figure(report: SpectraReport) -> Figure:
    """Empirical spectral densities with their fitted tails: the smallest, the median and the largest alpha inside the layers.

    Raises:
        InputError: the report holds no densities with a fit, for instance because it was made from a table.
    """
    fitted = [site for site in report.sites if site.density is not None and math.isfinite(site.ks)]
    if not fitted:
        raise InputError(f"{report.model.name}: no spectral density with a fit to plot")
    inside = [site for site in fitted if parse_name(site.name)]
    ranked = sorted(inside or fitted, key=lambda site: site.alpha)
    # With few sites the three may be one.
    shown = list({site.name: site for site in (ranked[0], ranked[len(ranked) // 2], ranked[-1])}.values())
    with style():
        figure = Figure(figsize=(3.3 * len(shown), 3.3), layout="constrained")
        for number, site in enumerate(shown):
            _draw_density(figure.add_subplot(1, len(shown), number + 1), site)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _draw_density(axes: Axes, site: SiteSpectrum) -> None:
    """Counts in equal bins of log eigenvalue, where a density x^-alpha is a line of slope 1 - alpha."""
    assert site.density is not None
    edges = np.linspace(site.density.log10_min, site.density.log10_max, len(site.density.counts) + 1)
    centres = 10 ** ((edges[1:] + edges[:-1]) / 2)
    axes.bar(10 ** edges[:-1], site.density.counts, np.diff(10**edges), align="edge", color="#a9c7dc", lw=0)
    tail = centres[centres >= site.x_min]
    # A bin's width in ln x. The density over ln x is x p(x), which is why the exponent below is 1 - alpha.
    per_bin = (edges[1] - edges[0]) * math.log(10)
    law = site.n_tail * (site.alpha - 1) * (tail / site.x_min) ** (1 - site.alpha) * per_bin
    axes.plot(tail, law, color=PALETTE[5], lw=1.8, label="fitted power law")
    axes.axvline(site.x_min, color=GREY, lw=0.9, ls="--", label="x_min")
    if site.metrics and site.metrics.bulk_edge > 0:
        axes.axvline(site.metrics.bulk_edge, color=PALETTE[2], lw=0.9, ls=":", label="Marchenko-Pastur edge of the bulk")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 6 * max(site.density.counts))  # room for the text above the bars
    axes.set_title(site.name, fontsize=7.5)
    axes.set_xlabel("eigenvalue of $W^T W$")
    axes.set_ylabel("count per bin")
    axes.text(
        0.03,
        0.97,
        f"alpha {site.alpha:.2f} ± {site.sigma:.2f}\ntail {site.n_tail} of {site.n_eigenvalues}\nKS {site.ks:.3f}",
        transform=axes.transAxes,
        va="top",
        fontsize=7.5,
    )
