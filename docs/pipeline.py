"""Draws docs/figures/pipeline.png, the figure of docs/index.md.

python docs/pipeline.py
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from spectra.views.figures import PALETTE, save_figure, style

FILES = {  # name: (x, y, what)
    "checkpoint": (0.0, 1.0, "weights"),
    "train.jsonl": (0.0, 0.0, "examples"),
    "spectra.json": (2.9, 1.0, "alpha of every matrix"),
    "sensitivity.json": (2.9, 0.0, "gradients of samples"),
    "plan.json": (5.8, 0.5, "experts and ranks"),
    "run/": (8.7, 0.5, "adapters, curve"),
    "study.json": (11.6, 1.0, "did it pay?"),
    "scores": (11.6, 0.0, "held-out texts"),
}
COMMANDS = [  # from, to, name, how far its label stands above the arrow's middle
    ("checkpoint", "spectra.json", "analyze", 0.12),
    ("train.jsonl", "sensitivity.json", "probe", 0.12),
    ("spectra.json", "plan.json", "allocate", 0.22),
    ("sensitivity.json", "plan.json", "", 0.0),
    ("plan.json", "run/", "train", 0.12),
    ("run/", "study.json", "compare", 0.22),
    ("run/", "scores", "evaluate", -0.22),
]
WIDTH, HEIGHT = 1.7, 0.5


def main() -> None:
    """Write the figure."""
    with style():
        figure = Figure(figsize=(10, 2.2), layout="constrained")
        axes = figure.subplots()
        for name, (x, y, what) in FILES.items():
            _box(axes, x, y, name, what)
        for start, end, command, above in COMMANDS:
            _arrow(axes, FILES[start][:2], FILES[end][:2], command, above)
        axes.set(xlim=(-1, 12.6), ylim=(-0.4, 1.45), aspect="auto")
        axes.set_axis_off()
    (png, svg) = save_figure(figure, Path(__file__).parent / "figures", "pipeline")
    svg.unlink()
    sys.stdout.write(f"{png}\n")


def _box(axes: Axes, x: float, y: float, name: str, what: str) -> None:
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle="round,pad=0.02", fc="white", ec=PALETTE[0], lw=1.2))
    axes.text(x, y + 0.07, name, ha="center", va="center", fontsize=9, weight="bold")
    axes.text(x, y - 0.12, what, ha="center", va="center", fontsize=7.5, color="#555555")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], command: str, above: float) -> None:
    tail, head = (start[0] + WIDTH / 2 + 0.05, start[1]), (end[0] - WIDTH / 2 - 0.05, end[1])
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "->", "color": "#555555", "lw": 1})
    middle = (tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2 + above
    axes.text(*middle, command, ha="center", va="center", fontsize=8, family="monospace")


if __name__ == "__main__":
    main()
