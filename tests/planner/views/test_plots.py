"""What is drawn of plans and sensitivity reports: the numbers themselves, read back from the figures."""

import math

import numpy as np
import pytest

from planner import allocate
from planner.sensitivity.report import ExpertUsage
from planner.views.plots import READABLE, allocation_figure, evidence_figure, sensitivity_figure, usage_figure
from spectra import InputError
from tests.planner.examples import plan_of, planned, sensitivity_of

PLAN = plan_of(
    planned("layers.0.q", (4, 4), weight=1.5, alpha=3.0, sensitivity=1e-6), planned("layers.0.up", (3, 2), sensitivity=1e-4),
    planned("layers.1.q", (), weight=0.5, alpha=2.0, sensitivity=0.0),
    strategy="sensitivity",
)  # fmt: skip
ROUTED = plan_of(
    planned("layers.0.q", (4,), alpha=3.0),
    *(planned(f"layers.0.experts.{at}.{part}", (1 + at,), token_share=at / 4) for at in range(3) for part in ("up", "down")),
)


def shown(axes):
    return axes.images[0].get_array().filled(math.nan)


def titles(figure):
    return [title for axes in figure.axes if axes.get_visible() and (title := axes.get_title(loc="left"))]


def by_title(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}


def test_an_allocation_is_total_ranks_with_every_experts_written_in():
    figure = allocation_figure(PLAN)
    axes, bar = figure.axes
    np.testing.assert_array_equal(shown(axes), [[8, 5], [0, math.nan]])
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "2 x 4"), ((1, 0), "3,2"), ((0, 1), "-")
    }  # fmt: skip
    assert {text.get_text(): text.get_color() for text in axes.texts} == {"2 x 4": "white", "3,2": "white", "-": "black"}
    assert figure.get_suptitle() == "model: sensitivity, 344 parameters"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["q", "up"]
    assert bar.get_ylabel() == "total rank"


def test_routed_experts_are_drawn_beside_the_ordinary_projections_on_one_scale():
    ordinary, up, down, _ = allocation_figure(ROUTED).axes
    assert [axes.get_title(loc="left") for axes in (ordinary, up, down)] == ["", "up by expert", "down by expert"]
    np.testing.assert_array_equal(shown(up), [[1, 2, 3]])
    assert {axes.images[0].get_clim() for axes in (ordinary, up, down)} == {(0.0, 4.0)}
    assert (len(ordinary.texts), len(up.texts), len(down.texts)) == (1, 0, 0)


def test_every_projection_of_routed_experts_is_a_map_of_layers_by_experts(routed):
    ordinary, *by_expert, _bar = allocation_figure(allocate("60k", **routed)).axes
    assert ordinary.get_title(loc="left") == ""
    assert [axes.get_title(loc="left").partition(" ")[2] for axes in by_expert] == ["by expert"] * 3
    assert all(shown(axes).shape == (2, 4) for axes in by_expert)


def test_too_many_cells_to_read_hold_no_numbers():
    wide = [planned(f"layers.{layer}.q", (1,)) for layer in range(READABLE + 1)]
    assert len(allocation_figure(plan_of(*wide[:READABLE])).axes[0].texts) == READABLE
    assert not allocation_figure(plan_of(*wide)).axes[0].texts


def test_evidence_stands_beside_what_was_decided():
    drawn = by_title(evidence_figure(PLAN))
    assert list(drawn)[:4] == ["total rank", "weight", "alpha", "log10 squared-gradient"]
    np.testing.assert_array_equal(shown(drawn["weight"]), [[1.5, 1.0], [0.5, math.nan]])
    np.testing.assert_array_equal(shown(drawn["alpha"]), [[3.0, math.nan], [2.0, math.nan]])
    np.testing.assert_allclose(shown(drawn["log10 squared-gradient"]), [[-6, -4], [math.nan, math.nan]])  # of zero is none


def test_a_trial_run_is_drawn_per_parameter_of_an_adapter():
    plan = plan_of(planned("layers.0.q", (2,), loss_reduction=24.0), planned("layers.1.q", (2,), loss_reduction=48.0))
    np.testing.assert_array_equal(shown(by_title(evidence_figure(plan))["trial run: loss reduction"]), [[1.0], [2.0]])


def test_without_evidence_there_is_nothing_to_draw(uniform_plan):
    assert evidence_figure(uniform_plan) is None


def test_routed_experts_evidence_has_a_row_of_its_own():
    drawn = by_title(evidence_figure(ROUTED))
    assert [title for title in drawn if "by expert" in title] == [
        "total rank\nup by expert", "weight\nup by expert", "share of tokens\nup by expert"
    ]  # fmt: skip
    np.testing.assert_array_equal(shown(drawn["share of tokens\nup by expert"]), [[0.0, 0.25, 0.5]])


def test_evidence_is_drawn_for_experts_too(routed):
    figure = evidence_figure(allocate("60k", **routed))
    found = titles(figure)
    assert sum("by expert" in title for title in found) == 5
    assert any(title.startswith("share of tokens") for title in found)
    assert len(found) == 9


def test_gradients_are_drawn_for_every_task_and_agreement_by_sample_size():
    curve = [{"examples": 4, "rank_correlation": 0.5, "overlap": 0.25}, {"examples": 8, "rank_correlation": 0.75, "overlap": 0.5}]
    report = sensitivity_of({"layers.0.q": [8e-2, 8.0], "layers.1.q": [8e-4, 8e2]}, names=("a", "b"), stability=curve)
    first, second, agreement, _bar = sensitivity_figure(report).axes
    np.testing.assert_allclose(shown(first), [[-2.0], [-4.0]])  # of 4 x 2 matrices
    np.testing.assert_allclose(shown(second), [[0.0], [2.0]])
    assert {axes.images[0].get_clim() for axes in (first, second)} == {(-4.0, 2.0)}
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("a", "b")
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in agreement.get_lines()}
    assert lines == {
        f"{task}: {what}": ([4, 8], values)
        for task in "ab"
        for what, values in (("ranks", [0.5, 0.75]), ("top half", [0.25, 0.5]))
    }
    assert [label.get_text() for label in agreement.get_xticklabels()] == ["4", "8"]
    assert agreement.get_ylim() == (0.0, 1.02)


def test_few_examples_have_no_curve():
    assert len(sensitivity_figure(sensitivity_of({"layers.0.q": [1.0]})).axes) == 2


def test_sites_outside_layers_cannot_be_laid_out():
    outside = plan_of(planned("head", (2,), alpha=2.0))
    with pytest.raises(InputError, match="plan for model: no site inside a numbered layer to plot"):
        allocation_figure(outside)
    with pytest.raises(InputError, match="sensitivity report: no site inside a numbered layer to plot"):
        sensitivity_figure(sensitivity_of({"head": [1.0]}))


def test_routing_is_drawn_at_learned_tokens_and_at_all():
    names = [f"layers.{layer}.experts.{expert}.up" for layer in range(2) for expert in range(3)]
    usage = {name: (ExpertUsage(token_share=at / 10, mean_weight=0.5, all_share=(5 - at) / 10),) for at, name in enumerate(names)}
    learned, of_all, _bar = usage_figure(sensitivity_of({key: [1.0] for key in names}, usage=usage)).axes
    assert (learned.get_title(loc="left"), of_all.get_title(loc="left")) == ("of learned tokens", "of all tokens")
    np.testing.assert_allclose(shown(learned), [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])
    np.testing.assert_allclose(shown(of_all), [[0.5, 0.4, 0.3], [0.2, 0.1, 0.0]])
