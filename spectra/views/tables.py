"""Spectra reports for people: a table with one row per layer and one column per projection."""

import math
from collections import Counter

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spectra.checkpoint.names import parse_name, short_name
from spectra.report import SiteSpectrum, SpectraReport
from spectra.views.layer_grid import layer_grid

# weightwatcher's bands (constants.py): below 2 a tail is heavier than a trained layer's should be, above 6 lighter.
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0
LISTED = 5  # outliers, failures and reasons that are printed; the report has them all
BAR = 12


def alpha_table(report: SpectraReport) -> Table:
    """Alpha by layer and projection, experts by their mean, with a bar per layer; failed fits as a dash."""
    title = f"alpha by layer and projection: {report.model.name}, estimator {report.estimator}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("layer", justify="right")
    alphas, grid = report.alphas(), layer_grid(report.by_name())
    for column in grid.columns:
        table.add_column(short_name(column), justify="right", overflow="fold")
    table.add_column("mean", justify="right", style="bold")
    table.add_column("")
    means = {row: grid.mean(alphas, row) for row in grid.rows}
    largest = max((alpha for alpha in means.values() if not math.isnan(alpha)), default=1.0)
    for row, cells in grid.rows.items():
        shown = (cell(grid.mean(alphas, row, column)) if column in cells else "" for column in grid.columns)
        bar = "" if math.isnan(means[row]) else "█" * round(BAR * means[row] / largest)
        table.add_row(row, *shown, cell(means[row]), bar)
    return table


def elsewhere_table(report: SpectraReport) -> Table:
    """Matrices outside the numbered layers: embeddings, poolers, heads."""
    table = Table("matrix", "shape", "alpha", "fit", title="outside the layers", title_justify="left", box=box.SIMPLE_HEAD)
    for site in report.sites:
        if parse_name(site.name) is None:
            table.add_row(site.name, "x".join(map(str, site.shape)), cell(site.alpha), str(site.status))
    return table


def cell(alpha: float) -> Text:
    """An alpha, coloured outside the band of well-trained layers."""
    if math.isnan(alpha):
        return Text("-", style="dim")
    style = "red" if alpha < OVER_TRAINED else "yellow" if alpha > UNDER_TRAINED else ""
    return Text(f"{alpha:.2f}", style=style)


def overview(report: SpectraReport) -> list[RenderableType]:
    """The grid of alphas with a bar per layer, the outliers, and the skipped tensors with the reasons."""
    parts: list[RenderableType] = [alpha_table(report)] if layer_grid(report.by_name()).rows else []
    if any(parse_name(site.name) is None for site in report.sites):
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


def count_of(number: int, one: str, many: str = "") -> str:
    """A number with its noun, in the singular for one: `1 matrix`, `40 matrices`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _skipped(report: SpectraReport) -> list[str]:
    reasons = Counter(tensor.reason for tensor in report.skipped)
    counted = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(LISTED))
    ending = f" ({counted})" if counted else ""
    analysed = count_of(len(report.sites), "matrix", "matrices")
    return [f"{analysed} analysed, {count_of(len(report.skipped), 'tensor')} skipped{ending}"]
