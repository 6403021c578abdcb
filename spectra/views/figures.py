"""The house style of figures, and how they are saved. Figures are made without pyplot, so nothing global changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from spectra.core.files import write_atomic

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
    "svg.hashsalt": "loraplan",
    "figure.dpi": 100,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this block; matplotlib's settings outside stay what they were."""
    with matplotlib.rc_context(STYLE):
        yield


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
    formats: tuple[tuple[str, dict[str, Any]], ...] = (
        ("png", {"dpi": 200, "metadata": {"Software": None}}),
        ("svg", {"metadata": {"Date": None}}),
    )
    for suffix, options in formats:
        content = BytesIO()
        with style():
            figure.savefig(content, format=suffix, bbox_inches="tight", **options)
        path = Path(folder) / f"{name}.{suffix}"
        write_atomic(path, content.getvalue())
        paths.append(path)
    return paths
