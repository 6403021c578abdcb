"""What is drawn of spectra reports: the numbers themselves, read back from the figures."""

import math

import numpy as np
import pytest

from spectra import InputError
from spectra.estimators.fits import FitStatus
from spectra.report import Density, Interval, ModelInfo, SiteSpectrum, SpectraReport, Uncertainty
from spectra.settings import AnalysisSettings
from spectra.views.plots import alpha_figure, comparison_figure, density_figure, heat_figure


def site(name, alpha, *, interval=None, density=None, x_min=1.0):
    status = FitStatus.NO_EXPONENT if math.isnan(alpha) else FitStatus.OK
    ks, uncertainty = (math.nan if math.isnan(alpha) else 0.1), Uncertainty(interval=interval)
    return SiteSpectrum(
        name=name, module=name, shape=(8, 8), alpha=alpha, x_min=x_min, n_tail=12, ks=ks, sigma=0.25, status=status,
        n_eigenvalues=40, n_cut=0, fits={}, metrics=None, density=density, uncertainty=uncertainty,
    )  # fmt: skip


def report(*sites, estimator="clauset", name="model"):
    model = ModelInfo(name=name, parameters=100, fingerprint="sha256:x")
    return SpectraReport(model=model, settings=AnalysisSettings(estimator=estimator), sites=sites, skipped=())


DENSE = report(
    site("embed", 9.0),
    site("layers.0.q", 3.0), site("layers.0.up", 5.0, interval=Interval(low=4.5, high=4.8, coverage=0.95, replicas=9)),
    site("layers.1.q", math.nan), site("layers.1.up", 2.0),
)  # fmt: skip
ROUTED = report(
    site("layers.0.q", 3.0),
    *(site(f"layers.{layer}.experts.{expert}.up", 2.0 + layer + expert) for layer in range(2) for expert in range(3)),
)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def lines(axes):
    """Label -> heights, of every drawn line with a label."""
    return {line.get_label(): line.get_ydata() for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_alpha_by_depth_is_drawn_for_every_projection_and_for_the_layers_mean():
    (axes,) = alpha_figure(DENSE).axes
    np.testing.assert_array_equal(lines(axes)["layer mean"], [4.0, 2.0])
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in axes.containers}
    np.testing.assert_array_equal(drawn["q"], [3.0, math.nan])
    np.testing.assert_array_equal(drawn["up"], [5.0, 2.0])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]
    assert axes.get_title(loc="left") == "model: power-law exponent by layer (clauset)"


def test_bars_are_standard_errors_or_the_interval_and_never_negative():
    (axes,) = alpha_figure(DENSE).axes
    (up,) = (bars for bars in axes.containers if bars.get_label() == "up")
    (segments,) = (bars.get_segments() for bars in up.lines[2])
    # the interval of 4.5 to 4.8 does not contain the estimate of 5.0: nothing above it
    np.testing.assert_allclose([segment[:, 1] for segment in segments], [[4.5, 5.0], [1.75, 2.25]])


def test_experts_are_averaged_by_depth_and_have_no_bars():
    (axes,) = alpha_figure(ROUTED).axes
    (experts,) = (bars for bars in axes.containers if "experts" in bars.get_label())
    np.testing.assert_array_equal(experts.lines[0].get_ydata(), [3.0, 4.0])
    assert all(np.ptp(segment[:, 1]) == 0 for segment in experts.lines[2][0].get_segments())


def test_weightwatchers_band_is_shown_for_its_own_estimator_only():
    assert any("well trained" in text for text in legend(alpha_figure(DENSE).axes[0]))
    other = DENSE.model_copy(update={"settings": AnalysisSettings(estimator="hill")})
    assert not any("well trained" in text for text in legend(alpha_figure(other).axes[0]))


def test_the_heat_map_has_layers_by_projections_and_then_layers_by_experts():
    whole, by_expert, bar = heat_figure(ROUTED).axes
    np.testing.assert_array_equal(whole.images[0].get_array().filled(math.nan), [[3.0, 3.0], [math.nan, 4.0]])
    np.testing.assert_array_equal(by_expert.images[0].get_array(), [[2.0, 3.0, 4.0], [3.0, 4.0, 5.0]])
    assert whole.get_title(loc="left") == "model: alpha (clauset)"
    assert by_expert.get_title(loc="left") == "up by expert"
    assert [label.get_text() for label in by_expert.get_xticklabels()] == ["0", "1", "2"]
    assert bar.get_ylabel() == "alpha"


def test_an_outlier_does_not_take_all_the_colours():
    sites = [site(f"layers.{layer}.q", 3.0 + layer / 100) for layer in range(99)]
    axes, _ = heat_figure(report(*sites, site("layers.99.q", 1000.0))).axes
    low, high = axes.images[0].get_clim()
    assert 3.0 < low < 3.05
    assert 3.9 < high < 4.1


def test_two_models_are_compared_by_depth_and_matrix_by_matrix():
    other = report(site("bert.layers.0.q", 4.0), site("bert.layers.0.up", 4.0), site("bert.layers.2.up", 7.0), name="other")
    depth, scatter = comparison_figure(DENSE, other).axes
    drawn = lines(depth)
    np.testing.assert_array_equal(drawn["model"], [4.0, 2.0])
    np.testing.assert_array_equal(drawn["other"], [4.0, 7.0])
    np.testing.assert_array_equal(scatter.collections[0].get_offsets(), [[3.0, 4.0], [5.0, 4.0]])
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("model", "other")


def test_two_checkpoints_of_one_run_are_told_apart():
    depth, scatter = comparison_figure(DENSE, DENSE.model_copy()).axes
    assert legend(depth) == ["model, first", "model, second"]
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("model, first", "model, second")


def test_densities_are_drawn_of_the_smallest_the_median_and_the_largest_alpha():
    density = Density(log10_min=-1.0, log10_max=1.0, counts=(1, 4, 2, 1))
    sites = [site(f"layers.{layer}.q", 2.0 + layer, density=density) for layer in range(5)]
    figure = density_figure(report(site("embed", 0.5, density=density), *sites))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layers.0.q", "layers.2.q", "layers.4.q"]
    (first, *_) = figure.axes
    assert [bar.get_height() for bar in first.patches] == [1, 4, 2, 1]
    np.testing.assert_allclose([bar.get_x() for bar in first.patches], 10 ** np.array([-1.0, -0.5, 0.0, 0.5]))
    (law, x_min) = (line for line in first.get_lines() if not line.get_label().startswith("_"))
    centres = 10 ** np.array([0.25, 0.75])  # of the bins above x_min = 1
    np.testing.assert_allclose(law.get_xdata(), centres)
    # a density (alpha - 1) x^-alpha of 12 values in bins of half a decade, at alpha 2
    np.testing.assert_allclose(law.get_ydata(), 12 / centres * 0.5 * math.log(10))
    assert x_min.get_xdata() == [1.0, 1.0]
    assert first.texts[0].get_text() == "alpha 2.00 ± 0.25\ntail 12 of 40\nKS 0.100"


def test_what_cannot_be_drawn_is_refused():
    outside = report(site("embed", 3.0))
    with pytest.raises(InputError, match="model: no alpha inside a numbered layer to plot"):
        alpha_figure(report(site("layers.0.q", math.nan)))
    with pytest.raises(InputError, match="model: no matrix inside a numbered layer to plot"):
        heat_figure(outside)
    with pytest.raises(InputError, match="model: no spectral density with a fit to plot"):
        density_figure(DENSE)
    with pytest.raises(InputError, match="model and model have no analysed matrix in common"):
        comparison_figure(DENSE, report(site("layers.7.q", 2.0)))
    with pytest.raises(InputError, match="cannot compare alphas of clauset and hill: each estimator has a scale of its own"):
        comparison_figure(DENSE, DENSE.model_copy(update={"settings": AnalysisSettings(estimator="hill")}))
