"""What is drawn of runs, growth and studies: the numbers themselves, read back from the figures."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from spectra.views.figures import GREY, PALETTE
from tests.trainer.study.examples import study_of
from tests.trainer.views.examples import HISTORY_OF_TWO, evaluation_of, health, run_of
from trainer.evaluation.metrics import METRICS
from trainer.study.report import BASELINE, Binding, Size
from trainer.views.plots import GROWTH, growth_figure, load_figure, run_figure, sizes_figure, study_figure


def test_a_run_is_drawn_as_its_loss_by_step():
    (axes,) = run_figure(run_of()).axes
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(line.get_ydata(), [4, 2, 4 / 3, 1])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "training loss")
    assert axes.get_title(loc="left") == "combined: 1,234 adapter parameters"


@pytest.mark.parametrize(
    ("trained", "title", "values"),
    [
        ({"accuracy": 0.75, "f1": 0.5, "loss": 1.0}, "held-out accuracy, %", [75.0, 50.0, 25.0]),
        ({"exact_match": 0.5, "perplexity": 3.0, "loss": 1.0}, "held-out exact match, %", [50.0]),
        ({"perplexity": 3.0, "loss": 1.0}, "held-out loss", [1.0, 2.0, 3.0]),
    ],
)
def test_beside_it_stands_the_first_metric_of_the_model_with_what_is_free(trained, title, values):
    evaluation = evaluation_of(trained, untrained={"accuracy": 0.5, "loss": 2.0}, majority={"accuracy": 0.25, "loss": 3.0})
    _, axes = run_figure(run_of(), evaluation).axes
    assert axes.get_title(loc="left") == title
    bars = axes.containers[0]
    assert [bar.get_width() for bar in bars] == values
    names = ["fine-tuned", "untrained", "majority class"][: len(values)]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [PALETTE[0].lower(), *[GREY] * (len(values) - 1)]
    form = "{:.1f}" if title.endswith("%") else "{:.3f}"
    assert [text.get_text() for text in axes.texts] == [form.format(value) for value in values]
    assert axes.yaxis_inverted()  # the first answer on top


def growth_lines(what):
    """Of every layer's panel: expert's values by event, in the order in which they were drawn, and their colours."""
    figure = growth_figure(HISTORY_OF_TWO, what)
    return figure, [[(line.get_ydata().tolist(), to_hex(line.get_color())) for line in axes.get_lines()] for axes in figure.axes]


def test_growth_is_drawn_for_every_layer_and_coloured_where_most_was_earned():
    figure, (first, second) = growth_lines("ranks")
    blue = PALETTE[0].lower()
    assert first == [([2, 2], GREY), ([2, 2], GREY), ([3, 5], blue)]
    assert second == [([2, 2], GREY), ([2, 3], GREY), ([3, 4], blue)]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer 0", "layer 1"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["an expert's rank", ""]
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [3, 6]
    assert figure.get_suptitle() == "rank of every expert"


def test_shares_that_were_not_observed_yet_are_left_open():
    figure, (first, _) = growth_lines("shares")
    assert all(math.isnan(values[0]) for values, _ in first)
    assert sorted(values[1] for values, _ in first) == [0.1, 0.2, 0.7]
    assert figure.axes[0].get_ylabel() == "an expert's share"


def test_saliency_is_drawn_by_its_magnitude_where_there_is_any():
    figure, _ = growth_lines("saliency")
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    assert figure.axes[0].get_ylabel() == "an expert's saliency"


def test_panels_that_no_layer_needs_are_empty():
    events = tuple(
        event.model_copy(update={
            field: {f"layers.{layer}.experts": getattr(event, field)["layers.1.experts"] for layer in range(5)}
            for field in GROWTH
        })
        for event in HISTORY_OF_TWO.events
    )  # fmt: skip
    figure = growth_figure(HISTORY_OF_TWO.model_copy(update={"events": events}))
    assert len(figure.axes) == 8
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False] * 3


BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])


def test_a_study_is_drawn_as_differences_with_their_intervals():
    study = study_of(
        {BASELINE: {"one": BASE, "two": BASE}, "up": {"one": BASE + 0.05 + STEADY, "two": BASE},
         "down": {"one": BASE - 0.05 + STEADY, "two": BASE + np.array([0.1, -0.2, 0.1])},
         "head-only": {"one": BASE, "two": BASE}},
        "accuracy",
    )  # fmt: skip
    figure = study_figure(study)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two", "all tests (accuracy)"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"points (more is better)"}
    one = figure.axes[0]
    assert [label.get_text() for label in one.get_yticklabels()] == ["up", "down"]
    of = {(difference.arm, difference.test): difference for difference in study.differences}
    for row, (name, bars) in enumerate(zip(("up", "down"), one.containers, strict=True)):
        (point, _, (interval,)) = bars.lines
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (pytest.approx(100 * of[name, "one"].difference), row)
        ((low, high),) = (segment[:, 0] for segment in interval.get_segments())
        assert (low, high) == pytest.approx((100 * of[name, "one"].low, 100 * of[name, "one"].high))
    colours = [to_hex(bars.lines[0].get_color()) for axes in figure.axes[:2] for bars in axes.containers]
    assert colours == [PALETTE[0].lower(), PALETTE[5].lower(), GREY, GREY]


def test_less_loss_is_drawn_as_better():
    (axes,) = study_figure(study_of({BASELINE: {"t": BASE}, "less": {"t": BASE - 0.05 + STEADY}}, "loss")).axes
    assert axes.get_xlabel() == "nats per token (less is better)"
    (point, *_) = axes.containers[0].lines
    assert point.get_xdata()[0] == pytest.approx(-0.05)
    assert to_hex(point.get_color()) == PALETTE[0].lower()


@pytest.mark.parametrize(
    ("binds", "title"),
    [(True, "the budget binds"), (False, "the budget does not bind"), (None, "whether the budget binds cannot be told")],
)
def test_sizes_are_drawn_with_the_error_of_each(binds, title):
    sizes = (Size(arm="small", parameters=250, mean=0.65, error=0.01), Size(arm=BASELINE, parameters=1000, mean=0.6))
    binding = Binding(test="t", measure="loss", sizes=sizes, differences=(), binds=binds, enough=250, possible=0.02)
    (axes,) = sizes_figure(study_of({BASELINE: {"t": BASE}}, "loss", binding=binding)).axes
    (line, _, (bars,)) = axes.containers[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[250, 0.65], [1000, 0.6]])
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], [[0.64, 0.66], [0.6, 0.6]])
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == (title, "loss on t")


def test_everything_that_is_drawn_of_growth_is_a_field_of_its_events():
    assert GROWTH.keys() <= set(type(HISTORY_OF_TWO.events[0]).model_fields)
    assert METRICS.keys() >= {"accuracy", "loss"}


def test_load_is_drawn_over_an_even_share_a_row_for_each_router():
    routers = (
        health(0.5, 0.5, site="model.layers.0.self_attn.q_proj"),
        health(0.1, 0.3, 0.6, site="model.layers.1.mlp.experts").model_copy(update={"learned_shares": (0.0, 0.0, 1.0)}),
    )
    axes, _bar = load_figure(run_of(routers=routers)).axes
    np.testing.assert_allclose(axes.images[0].get_array().filled(math.nan), [[1, 1, math.nan], [0, 0, 3]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 q_proj", "1 experts"]
