"""Sites laid out as people look at them: layers down, projections across, routed experts together or on panels of their own.

The grid knows names only. What is shown in it, an exponent, a rank or a gradient, is a mapping from a site's name to a number.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.names import expert_index, parse_name, projection_type, short_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One rectangle of values. `values[row, column]` belongs to site `names[row, column]`; NaN and "" where there is none."""

    title: str
    """Empty for the ordinary projections; the projection's name where the columns are routed experts."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    names: NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGrid:
    """Sites inside the numbered layers. A cell holds one site, or one for every routed expert."""

    rows: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Layer label -> projection type -> names of sites."""
    columns: tuple[str, ...]
    """Every projection type, in network order; one of routed experts is written `mlp.experts.*.up_proj`."""

    @property
    def routed(self) -> tuple[str, ...]:
        """The projection types that exist once per routed expert."""
        return tuple(name for name in self.columns if "experts.*." in name)

    def mean(self, values: Mapping[str, float], row: str, column: str | None = None) -> float:
        """Mean of a cell's known values, or over a layer's cells; NaN where nothing is known."""
        cells = self.rows[row]
        if column is not None:
            return mean(values[name] for name in cells.get(column, ()))
        # A mean of means: a projection of 64 routed experts weighs as much as any other.
        return mean(self.mean(values, row, name) for name in cells)

    def whole(self, values: Mapping[str, float]) -> Panel:
        """One panel of all projection types, routed experts by their mean."""
        cells = {
            (row, short_name(column)): (names[0], self.mean(values, row, column))
            for row, found in self.rows.items()
            for column, names in found.items()
        }
        return _panel("", cells, tuple(self.rows), tuple(map(short_name, self.columns)))

    def ordinary(self, values: Mapping[str, float]) -> Panel | None:
        """One panel of the projections that every token passes; None if there are only routed experts."""
        columns = [column for column in self.columns if column not in self.routed]
        cells = {
            (row, short_name(column)): (found[column][0], values[found[column][0]])
            for row, found in self.rows.items()
            for column in columns
            if column in found
        }
        rows = tuple(dict.fromkeys(row for row, _ in cells))
        return _panel("", cells, rows, tuple(map(short_name, columns))) if cells else None

    def by_expert(self, values: Mapping[str, float]) -> list[Panel]:
        """For every projection type of routed experts a panel of layers by experts."""
        return [self._experts(values, column) for column in self.routed]

    def _experts(self, values: Mapping[str, float], column: str) -> Panel:
        placed = {(row, _expert(name)): name for row, found in self.rows.items() for name in found.get(column, ())}
        # Every number up to the largest, so that a missing expert leaves a gap instead of moving the next ones.
        columns = tuple(str(expert) for expert in range(1 + max(expert for _, expert in placed)))
        cells = {(row, str(expert)): (name, values[name]) for (row, expert), name in placed.items()}
        rows = tuple(dict.fromkeys(row for row, _ in placed))
        return _panel(f"{column.split('.')[-1]} by expert", cells, rows, columns)

    def panels(self, values: Mapping[str, float]) -> list[Panel]:
        """The ordinary projections, then the routed ones expert by expert."""
        first = self.ordinary(values)
        return [*([first] if first else []), *self.by_expert(values)]


def layer_grid(names: Iterable[str]) -> LayerGrid:
    """Lay out sites by their names, given in network order; those outside the numbered layers are left out."""
    names = list(names)
    labels = layer_labels(names)
    rows: dict[str, dict[str, tuple[str, ...]]] = {}
    columns: dict[str, None] = {}  # a dict keeps the order in which the network has them
    for name in names:
        if name in labels:
            column, row = projection_type(name), rows.setdefault(labels[name], {})
            row[column] = (*row.get(column, ()), name)
            columns[column] = None
    return LayerGrid(rows=rows, columns=tuple(columns))


def layer_labels(names: Iterable[str]) -> dict[str, str]:
    """Site -> the label of its layer: its number, after the stack's name where a model has several stacks."""
    placed = {name: where for name in names if (where := parse_name(name))}
    several = len({where.stack for where in placed.values()}) > 1
    return {name: f"{where.stack} {where.layer}" if several else str(where.layer) for name, where in placed.items()}


def mean(values: Iterable[float]) -> float:
    """Mean of the known values; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def limits(panels: Iterable[Panel]) -> tuple[float, float]:
    """The least and the greatest value of several panels, for one scale of colours."""
    known = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _expert(name: str) -> int:
    index = expert_index(name)
    assert index is not None, f"{name} belongs to no routed expert"
    return index


def _panel(
    title: str, cells: Mapping[tuple[str, str], tuple[str, float]], rows: tuple[str, ...], columns: tuple[str, ...]
) -> Panel:
    values = np.full((len(rows), len(columns)), np.nan)
    names = np.full(values.shape, "", dtype=object)
    down, across = ({label: at for at, label in enumerate(labels)} for labels in (rows, columns))
    for (row, column), (name, value) in cells.items():
        at = down[row], across[column]
        values[at], names[at] = value, name
    return Panel(title=title, rows=rows, columns=columns, values=values, names=names.astype(np.str_))
