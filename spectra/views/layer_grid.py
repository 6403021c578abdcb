"""A report laid out as people look at it: layers down, projections across, routed experts together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spectra.checkpoint.names import expert_index, place, projection_type
from spectra.report import SiteSpectrum, SpectraReport

Cells = Mapping[str, Sequence[SiteSpectrum]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sites inside the numbered layers. A cell holds one site, or one per routed expert."""

    rows: Mapping[str, Cells]
    """Layer label -> projection -> sites; a projection of routed experts is written `mlp.experts.*.up_proj`."""
    projections: tuple[str, ...]
    """Every projection, in network order."""

    @property
    def routed(self) -> tuple[str, ...]:
        """The projections that exist once per expert."""
        return tuple(name for name in self.projections if "experts.*." in name)

    def mean(self, layer: str, projection: str | None = None) -> float:
        """Mean alpha of a cell, or over a layer's projections; NaN where every fit failed."""
        row = self.rows[layer]
        if projection is not None:
            return mean(site.alpha for site in row.get(projection, ()))
        return mean(self.mean(layer, name) for name in row)


def grid(report: SpectraReport) -> Grid:
    """Lay out a report. The layer's label is its number, with the stack's name where a model has several stacks."""
    placed = [(where, site) for site in report.sites if (where := place(site.name))]
    several = len({where.stack for where, _ in placed}) > 1
    rows: dict[str, dict[str, list[SiteSpectrum]]] = {}
    projections: dict[str, None] = {}  # a dict keeps the order in which the network has them
    for where, site in placed:
        label = f"{where.stack} {where.layer}" if several else str(where.layer)
        projection = projection_type(site.name)
        rows.setdefault(label, {}).setdefault(projection, []).append(site)
        projections[projection] = None
    return Grid(rows=rows, projections=tuple(projections))


def expert_of(site: SiteSpectrum) -> int:
    """Which routed expert a site belongs to.

    Raises:
        ValueError: the site belongs to none.
    """
    index = expert_index(site.name)
    if index is None:
        raise ValueError(f"{site.name} belongs to no routed expert")
    return index


def mean(values: Iterable[float]) -> float:
    """Mean of the known values; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
