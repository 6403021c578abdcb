"""The house style of figures, and how they are saved. Figures are made without pyplot, so nothing global changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from spectra.core.errors import InputError, first_line
from spectra.core.files import write_atomic
from spectra.views.layer_grid import Panel

# Okabe and Ito's palette: eight colours that stay apart for colour-blind readers and in grey.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = "osD^vP<>"
GREY = "#8a8a8a"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "svg.hashsalt": "loraplan",  # ids in an SVG would differ from run to run
    "figure.dpi": 100,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block; matplotlib's settings outside stay what they were."""
    with matplotlib.rc_context(STYLE):
        yield


MOST_TICKS = 24  # labels along one side of a heat map; more would run into each other
WIDE = 3  # characters; longer labels are turned


def heat_map(axes: Axes, panel: Panel, cmap: str, limits: tuple[float, float]) -> AxesImage:
    """Draw a panel of a layer grid with its labels; many rows or columns are labelled sparsely."""
    image = axes.imshow(panel.values, cmap=cmap, aspect="auto", vmin=limits[0], vmax=limits[1])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    across, down = (max(1, -(-len(labels) // MOST_TICKS)) for labels in (panel.columns, panel.rows))
    turned = across == 1 and any(len(name) > WIDE for name in panel.columns)
    look: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(0, len(panel.columns), across), panel.columns[::across], **look)
    axes.set_yticks(range(0, len(panel.rows), down), panel.rows[::down])
    axes.set(ylabel="layer", title=panel.title)
    return image


def save_figure(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes.

    Args:
        figure: what to write.
        folder: where to.
        name: file name without suffix.

    Returns:
        The two paths.
    """
    paths = []
    for suffix, content in rendered(figure).items():
        paths.append(Path(folder) / f"{name}.{suffix}")
        write_atomic(paths[-1], content)
    return paths


def rendered(figure: Figure) -> dict[str, bytes]:
    """A figure as PNG and SVG, by suffix; the same figure gives the same bytes."""
    formats: dict[str, dict[str, Any]] = {  # without version and date, or the bytes would change
        "png": {"dpi": 200, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None}},
    }
    found = {}
    for suffix, options in formats.items():
        content = BytesIO()
        with style():  # some settings, such as the SVG's salt, are read only here
            figure.savefig(content, format=suffix, bbox_inches="tight", **options)
        found[suffix] = content.getvalue()
    return found


@contextmanager
def drawing(what: str | Path) -> Iterator[None]:
    """Around matplotlib: values that are no measurements, such as 1e300, make it fail in many ways.

    Raises:
        InputError: what cannot be drawn, and why.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
        raise InputError(f"{what}: its values cannot be drawn: {first_line(error)}") from None
