"""How names become rows, columns and panels; what is shown in them is any mapping."""

import math

import numpy as np

from spectra.views.layer_grid import layer_grid, layer_labels, limits, mean

DENSE = ["embed", "layers.0.attn.q", "layers.0.mlp.up", "layers.1.attn.q", "layers.1.mlp.up", "layers.2.mlp.up"]
ROUTED = ["layers.0.attn.q", "layers.0.mlp.up"] + [
    f"layers.1.mlp.experts.{expert}.{part}" for expert in (0, 2) for part in ("up", "down")
]  # fmt: skip


def test_layers_go_down_and_projections_across_in_network_order():
    grid = layer_grid(DENSE)
    assert grid.columns == ("attn.q", "mlp.up")
    assert grid.rows == {
        "0": {"attn.q": ("layers.0.attn.q",), "mlp.up": ("layers.0.mlp.up",)},
        "1": {"attn.q": ("layers.1.attn.q",), "mlp.up": ("layers.1.mlp.up",)},
        "2": {"mlp.up": ("layers.2.mlp.up",)},
    }
    assert grid.routed == ()


def test_a_cell_of_routed_experts_holds_one_name_for_each():
    grid = layer_grid(ROUTED)
    assert grid.routed == ("mlp.experts.*.up", "mlp.experts.*.down")
    assert grid.rows["1"]["mlp.experts.*.down"] == ("layers.1.mlp.experts.0.down", "layers.1.mlp.experts.2.down")


def test_means_leave_out_what_is_unknown_and_weigh_projections_alike():
    grid = layer_grid(ROUTED)
    values = dict(zip(ROUTED, [1.0, math.nan, 2.0, 10.0, 4.0, math.nan], strict=True))
    assert grid.mean(values, "0") == 1.0
    assert grid.mean(values, "1", "mlp.experts.*.up") == 3.0
    assert grid.mean(values, "1") == (3.0 + 10.0) / 2
    assert math.isnan(grid.mean(values, "0", "mlp.up"))
    assert math.isnan(grid.mean(values, "0", "mlp.experts.*.up"))
    assert math.isnan(mean([]))


def test_the_whole_grid_is_one_panel_with_gaps():
    panel = layer_grid(DENSE).whole({name: float(number) for number, name in enumerate(DENSE)})
    assert (panel.title, panel.rows, panel.columns) == ("", ("0", "1", "2"), ("attn.q", "up"))
    np.testing.assert_array_equal(panel.values, [[1, 2], [3, 4], [math.nan, 5]])
    assert panel.names.tolist() == [["layers.0.attn.q", "layers.0.mlp.up"], ["layers.1.attn.q", "layers.1.mlp.up"],
                                    ["", "layers.2.mlp.up"]]  # fmt: skip


def test_routed_experts_have_panels_of_their_own():
    panels = layer_grid(ROUTED).panels(dict(zip(ROUTED, range(6), strict=True)))
    assert [panel.title for panel in panels] == ["", "up by expert", "down by expert"]
    ordinary, up, down = panels
    assert (ordinary.rows, ordinary.columns, ordinary.values.tolist()) == (("0",), ("attn.q", "up"), [[0, 1]])
    assert (up.rows, up.columns) == (("1",), ("0", "1", "2"))
    np.testing.assert_array_equal(up.values, [[2, math.nan, 4]])
    np.testing.assert_array_equal(down.values, [[3, math.nan, 5]])
    assert up.names.tolist() == [["layers.1.mlp.experts.0.up", "", "layers.1.mlp.experts.2.up"]]


def test_a_model_of_routed_experts_alone_has_no_ordinary_panel():
    grid = layer_grid(ROUTED[2:])
    values = dict.fromkeys(ROUTED[2:], 1.0)
    assert grid.ordinary(values) is None
    assert len(grid.panels(values)) == 2
    assert layer_grid(["embed"]).panels({"embed": 1.0}) == []


def test_labels_name_the_stack_only_where_there_are_several():
    assert layer_labels(["h.0.a", "h.11.a", "head"]) == {"h.0.a": "0", "h.11.a": "11"}
    assert layer_labels(["encoder.0.a", "decoder.0.a"]) == {"encoder.0.a": "encoder 0", "decoder.0.a": "decoder 0"}


def test_one_scale_spans_all_panels():
    panels = layer_grid(ROUTED).panels(dict(zip(ROUTED, [3.0, -1.0, math.nan, 7.0, 2.0, 2.0], strict=True)))
    assert limits(panels) == (-1.0, 7.0)
    assert limits(layer_grid(ROUTED).panels(dict.fromkeys(ROUTED, math.nan))) == (0.0, 1.0)
