import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from spectra.views.figures import GREY, MOST_TICKS, PALETTE, heat_map, save_figure, style
from spectra.views.layer_grid import Panel


def panel(rows, columns, title="title"):
    values = np.arange(rows * len(columns), dtype=float).reshape(rows, len(columns))
    names = np.full(values.shape, "x")
    return Panel(title=title, rows=tuple(map(str, range(rows))), columns=tuple(columns), values=values, names=names)


def drawn(one):
    axes = Figure().add_subplot()
    image = heat_map(axes, one, "viridis", (0.0, 10.0))
    return axes, image


def labels(ticks):
    return [label.get_text() for label in ticks]


def test_a_heat_map_shows_the_panels_values_with_its_labels():
    one = panel(3, ["q", "k"])
    one.values[2, 1] = math.nan
    axes, image = drawn(one)
    np.testing.assert_array_equal(image.get_array().filled(math.nan), one.values)
    assert image.get_clim() == (0.0, 10.0)
    assert labels(axes.get_xticklabels()) == ["q", "k"]
    assert labels(axes.get_yticklabels()) == ["0", "1", "2"]
    assert (axes.get_ylabel(), axes.get_title()) == ("layer", "title")


def test_long_labels_are_turned_and_short_ones_are_not():
    assert {label.get_rotation() for label in drawn(panel(1, ["up_proj", "q"]))[0].get_xticklabels()} == {35.0}
    assert {label.get_rotation() for label in drawn(panel(1, ["up", "q"]))[0].get_xticklabels()} == {0.0}


def test_many_rows_and_columns_are_labelled_sparsely_and_in_place():
    axes, _ = drawn(panel(2 * MOST_TICKS + 1, [str(number) for number in range(MOST_TICKS + 1)]))
    assert labels(axes.get_yticklabels()) == [str(row) for row in range(0, 49, 3)]
    assert axes.get_yticks().tolist() == list(range(0, 49, 3))
    assert labels(axes.get_xticklabels()) == [str(column) for column in range(0, 25, 2)]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {0.0}


def test_the_style_ends_with_its_block():
    before = matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]
    with style():
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]) == (9.0, True)
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]) == before


def test_colours_are_eight_different_ones():
    assert len({*PALETTE, GREY}) == 9


def test_the_same_figure_gives_the_same_bytes_in_both_formats(tmp_path):
    for folder in ("one", "two"):
        figure = Figure()
        figure.add_subplot().plot([1, 2], [3, 4])
        assert save_figure(figure, tmp_path / folder, "name") == [tmp_path / folder / "name.png", tmp_path / folder / "name.svg"]
    for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        one, two = ((tmp_path / folder / f"name.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert one.startswith(start)
