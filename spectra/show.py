"""Spectra reports for people: a table with one row per layer and one column per projection."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from spectra.report import SiteSpectrum, SpectraReport
from spectra.sites import place, short

# weightwatcher's bands (constants.py): below 2 a tail is heavier than a trained layer's should be, above 6 lighter.
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0


def alpha_table(report: SpectraReport) -> Table:
    """Alpha by layer and projection; other matrices below, failed fits as a dash."""
    table = Table(
        title=f"alpha by layer and projection: {report.model.name}, estimator {report.estimator}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("layer", justify="right")
    layers, projections = grid(report)
    for projection in projections:
        table.add_column(short(projection), justify="right")
    if projections:
        table.add_column("mean", justify="right", style="bold")
    for label, row in layers.items():
        known = [site.alpha for site in row.values() if not math.isnan(site.alpha)]
        mean = f"{sum(known) / len(known):.2f}" if known else "-"
        table.add_row(label, *(cell(row[name].alpha) if name in row else "" for name in projections), mean)
    return table


def elsewhere_table(report: SpectraReport) -> Table:
    """Matrices outside the numbered layers: embeddings, poolers, heads."""
    table = Table("matrix", "shape", "alpha", "fit", title="outside the layers", title_justify="left", box=box.SIMPLE_HEAD)
    for site in report.sites:
        if place(site.name) is None:
            table.add_row(site.name, "x".join(map(str, site.shape)), cell(site.alpha), str(site.status))
    return table


def grid(report: SpectraReport) -> tuple[dict[str, dict[str, SiteSpectrum]], list[str]]:
    """Layer label -> projection -> site, and all projections, both in network order."""
    layers: dict[str, dict[str, SiteSpectrum]] = {}
    projections: dict[str, None] = {}  # a dict keeps the order in which the network has them
    stacks = {where.stack for site in report.sites if (where := place(site.name))}
    for site in report.sites:
        if where := place(site.name):
            label = f"{where.stack} {where.layer}" if len(stacks) > 1 else str(where.layer)
            layers.setdefault(label, {})[where.projection] = site
            projections[where.projection] = None
    return layers, list(projections)


def cell(alpha: float) -> Text:
    """An alpha, coloured outside the band of well-trained layers."""
    if math.isnan(alpha):
        return Text("-", style="dim")
    style = "red" if alpha < OVER_TRAINED else "yellow" if alpha > UNDER_TRAINED else ""
    return Text(f"{alpha:.2f}", style=style)


def failures(report: SpectraReport) -> Mapping[str, str]:
    """Sites without an alpha, with the reason."""
    return {site.name: str(site.status) for site in report.sites if math.isnan(site.alpha)}
