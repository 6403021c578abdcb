"""Values of sites laid out as people look at them: layers down, projections across; routed experts on maps of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from spectra.checkpoint.names import expert_index, place, projection_type, short

MOST_TICKS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """One map. `values[row, column]` belongs to `names[row, column]`; NaN and the empty name where there is no such site."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    names: NDArray[np.str_]


def maps(values: Mapping[str, float]) -> list[Map]:
    """Site -> value, as a map of all ordinary projections followed by one per projection of routed experts.

    Args:
        values: by site name; sites outside any numbered layer are left out.
    """
    cells: dict[str, dict[tuple[str, str], tuple[str, float]]] = {}
    stacks = {where.stack for name in values if (where := place(name))}
    for name, value in values.items():
        where, expert = place(name), expert_index(name)
        if where is None:
            continue
        row = f"{where.stack} {where.layer}" if len(stacks) > 1 else str(where.layer)
        projection = short(projection_type(name))
        title, column = (projection.split(".")[-1] + " by expert", str(expert)) if expert is not None else ("", projection)
        cells.setdefault(title, {})[row, column] = (name, value)
    return [_map(title, found) for title, found in sorted(cells.items())]


def _map(title: str, cells: Mapping[tuple[str, str], tuple[str, float]]) -> Map:
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    columns = tuple(dict.fromkeys(column for _, column in cells))
    values = np.full((len(rows), len(columns)), np.nan)
    names = np.full(values.shape, "", dtype=object)
    for (row, column), (name, value) in cells.items():
        at = rows.index(row), columns.index(column)
        values[at], names[at] = value, name
    return Map(title=title, rows=rows, columns=columns, values=values, names=names.astype(np.str_))


def draw(axes: Axes, shown: Map, cmap: str, limits: tuple[float, float]) -> AxesImage:
    """Draw a map with its labels; many rows or columns are labelled sparsely."""
    image = axes.imshow(shown.values, cmap=cmap, aspect="auto", vmin=limits[0], vmax=limits[1])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    _label(axes, shown)
    return image


def _label(axes: Axes, shown: Map) -> None:
    across, down = (max(1, -(-len(labels) // MOST_TICKS)) for labels in (shown.columns, shown.rows))
    if any(len(name) > 3 for name in shown.columns):
        axes.set_xticks(
            range(0, len(shown.columns), across), shown.columns[::across], rotation=30, ha="right", rotation_mode="anchor"
        )
    else:
        axes.set_xticks(range(0, len(shown.columns), across), shown.columns[::across])
    axes.set_yticks(range(0, len(shown.rows), down), shown.rows[::down])
    axes.set(ylabel="layer")


def limits(shown: Sequence[Map]) -> tuple[float, float]:
    """The least and the greatest value of several maps, for one scale of colours."""
    known = np.concatenate([one.values[np.isfinite(one.values)] for one in shown])
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
