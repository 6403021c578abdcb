"""Layer-quality plots of a SpectraReport."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.figures import GREY, MARKERS, PALETTE, style
from spectra.report import SiteSpectrum, SpectraReport
from spectra.show import OVER_TRAINED, UNDER_TRAINED, grid
from spectra.sites import place, short
from spectra.values import InputError


def alpha_figure(report: SpectraReport) -> Figure:
    """Alpha against depth, one line per projection with its standard error, and the layer mean.

    Raises:
        InputError: no site inside a numbered layer has an alpha.
    """
    layers, projections = grid(report)
    if not any(math.isfinite(site.alpha) for row in layers.values() for site in row.values()):
        raise InputError(f"{report.model.name}: no alpha inside a numbered layer to plot")
    with style():
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        band = f"{OVER_TRAINED:g} to {UNDER_TRAINED:g}:\nwell trained\n(weightwatcher)"
        axes.axhspan(OVER_TRAINED, UNDER_TRAINED, color="#edf1f4", zorder=0, label=band)
        positions = np.arange(len(layers))
        for number, projection in enumerate(projections):
            sites = [row.get(projection) for row in layers.values()]
            alphas = np.array([site.alpha if site else np.nan for site in sites])
            errors = np.array([site.sigma if site else np.nan for site in sites])
            look: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}
            axes.errorbar(positions, alphas, errors, label=short(projection), lw=1, ms=4, elinewidth=0.7, alpha=0.9, **look)
        means = [np.nanmean([site.alpha for site in row.values()] or [np.nan]) for row in layers.values()]
        axes.plot(positions, means, color="black", lw=2.2, label="layer mean", zorder=5)
        axes.set(title=f"{report.model.name}: power-law exponent by layer ({report.estimator})", xlabel="layer", ylabel="alpha")
        step = max(1, len(layers) // 16)
        axes.set_xticks(positions[::step], list(layers)[::step])
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def density_figure(report: SpectraReport) -> Figure:
    """Empirical spectral densities with their fitted tails: the smallest, the median and the largest alpha inside the layers.

    Raises:
        InputError: the report holds no densities with a fit, for instance because it was made from a table.
    """
    fitted = [site for site in report.sites if site.density is not None and math.isfinite(site.ks)]
    if not fitted:
        raise InputError(f"{report.model.name}: no spectral density with a fit to plot")
    inside = [site for site in fitted if place(site.name)]
    ranked = sorted(inside or fitted, key=lambda site: site.alpha)
    shown = list({site.name: site for site in (ranked[0], ranked[len(ranked) // 2], ranked[-1])}.values())
    with style():
        figure = Figure(figsize=(3.3 * len(shown), 3.0), layout="constrained")
        for number, site in enumerate(shown):
            _draw_density(figure.add_subplot(1, len(shown), number + 1), site)
    return figure


def _draw_density(axes: Axes, site: SiteSpectrum) -> None:
    """Counts in equal bins of log eigenvalue, where a density x^-alpha is a line of slope 1 - alpha."""
    assert site.density is not None
    edges = np.linspace(site.density.log10_min, site.density.log10_max, len(site.density.counts) + 1)
    centres = 10 ** ((edges[1:] + edges[:-1]) / 2)
    axes.bar(10 ** edges[:-1], site.density.counts, np.diff(10**edges), align="edge", color="#a9c7dc", lw=0)
    tail = centres[centres >= site.x_min]
    per_bin = (edges[1] - edges[0]) * math.log(10)
    axes.plot(tail, site.n_tail * (site.alpha - 1) * (tail / site.x_min) ** (1 - site.alpha) * per_bin, color=PALETTE[5], lw=1.8)
    axes.axvline(site.x_min, color=GREY, lw=0.9, ls="--")
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
