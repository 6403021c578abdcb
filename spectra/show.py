"""Spectra reports for people: a table with one row per layer and one column per projection."""

import math
from collections import Counter

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spectra.report import SiteSpectrum, SpectraReport
from spectra.sites import place, short

# weightwatcher's bands (constants.py): below 2 a tail is heavier than a trained layer's should be, above 6 lighter.
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0
LISTED = 5  # outliers, failures and reasons that are printed; the report has them all
BAR = 12


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
        table.add_column("")
    largest = max((alpha for row in layers.values() if not math.isnan(alpha := _mean(row))), default=1.0)
    for label, row in layers.items():
        mean = _mean(row)
        shown = ("-", "") if math.isnan(mean) else (f"{mean:.2f}", "█" * round(BAR * mean / largest))
        table.add_row(label, *(cell(row[name].alpha) if name in row else "" for name in projections), *shown)
    return table


def _mean(row: dict[str, SiteSpectrum]) -> float:
    known = [site.alpha for site in row.values() if not math.isnan(site.alpha)]
    return sum(known) / len(known) if known else math.nan


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


def overview(report: SpectraReport) -> list[RenderableType]:
    """What a person wants first: the outliers, a bar per layer, the grid, and what was skipped and why."""
    parts: list[RenderableType] = [alpha_table(report)]
    if any(place(site.name) is None for site in report.sites):
        parts.append(elsewhere_table(report))
    return [*parts, *_outliers(report), *_skipped(report)]


def _outliers(report: SpectraReport) -> list[str]:
    """Sentences about matrices outside the band, and those without a fit."""
    known = [site for site in report.sites if not math.isnan(site.alpha)]
    over = sorted((site for site in known if site.alpha < OVER_TRAINED), key=lambda site: site.alpha)
    under = sorted((site for site in known if site.alpha > UNDER_TRAINED), key=lambda site: -site.alpha)
    lines = []
    if report.estimator == "clauset":  # the band is weightwatcher's and means nothing for another estimator
        lines.append(f"over-trained, alpha below {OVER_TRAINED:g} (weightwatcher's band): {_listed(over)}")
        lines.append(f"under-trained, alpha above {UNDER_TRAINED:g}: {_listed(under)}")
    failed = [site for site in report.sites if math.isnan(site.alpha)]
    return lines + [f"{site.name}: {site.status}" for site in failed[:LISTED]] + _more(failed)


def _listed(sites: list[SiteSpectrum]) -> str:
    named = ", ".join(f"{site.name} {site.alpha:.2f}" for site in sites[:LISTED])
    return named + (f" and {len(sites) - LISTED} more" if len(sites) > LISTED else "") if sites else "none"


def _more(failed: list[SiteSpectrum]) -> list[str]:
    return [f"{len(failed) - LISTED} more fits failed; see the report"] if len(failed) > LISTED else []


def _skipped(report: SpectraReport) -> list[str]:
    reasons = Counter(tensor.reason for tensor in report.skipped)
    counted = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(LISTED))
    ending = f" ({counted})" if counted else ""
    return [f"{len(report.sites)} matrices analysed, {len(report.skipped)} tensors skipped{ending}"]
