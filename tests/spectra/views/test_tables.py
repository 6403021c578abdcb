"""Spectra reports as people read them."""

import math

import pytest
from rich.table import Table
from rich.text import Text

from spectra.estimators.fits import FitStatus
from spectra.report import ModelInfo, SiteSpectrum, Skipped, SpectraReport, Uncertainty
from spectra.settings import AnalysisSettings
from spectra.views.tables import alpha_table, cell, elsewhere_table, overview


def site(name, alpha):
    status = FitStatus.ALL_EQUAL if math.isnan(alpha) else FitStatus.OK
    return SiteSpectrum(
        name=name, module=name, shape=(8, 4), alpha=alpha, x_min=1.0, n_tail=12, ks=0.1, sigma=0.25, status=status,
        n_eigenvalues=40, n_cut=0, fits={}, metrics=None, density=None, uncertainty=Uncertainty(),
    )  # fmt: skip


def report(*sites, estimator="clauset", skipped=()):
    model = ModelInfo(name="model", parameters=100, fingerprint="sha256:x")
    return SpectraReport(model=model, settings=AnalysisSettings(estimator=estimator), sites=sites, skipped=skipped)


REPORT = report(
    site("embed", 7.0), site("layers.0.self_attn.q_proj", 1.5), site("layers.0.mlp.up_proj", 6.5),
    site("layers.1.self_attn.q_proj", math.nan), site("layers.1.mlp.up_proj", 2.0),
    skipped=(Skipped(name="a", reason="1-D, no weight matrix"), Skipped(name="b", reason="1-D, no weight matrix"),
             Skipped(name="c", reason="tied: shares the storage of d")),
)  # fmt: skip


def columns(table):
    return {str(column.header): [str(entry) for entry in column.cells] for column in table.columns}


def test_alphas_stand_by_layer_and_projection_with_their_mean_and_a_bar():
    table = alpha_table(REPORT)
    assert table.title == "alpha by layer and projection: model, estimator clauset"
    assert columns(table) == {
        "layer": ["0", "1"], "q_proj": ["1.50", "-"], "up_proj": ["6.50", "2.00"], "mean": ["4.00", "2.00"],
        "": ["█" * 12, "█" * 6],
    }  # fmt: skip


def test_experts_stand_as_their_mean_and_a_projection_that_a_layer_lacks_stays_empty():
    routed = report(site("layers.0.up", 3.0), *(site(f"layers.1.mlp.experts.{expert}.up", 2.0 + expert) for expert in range(3)))
    assert columns(alpha_table(routed)) == {
        "layer": ["0", "1"], "up": ["3.00", ""], "experts.up": ["", "3.00"], "mean": ["3.00", "3.00"], "": ["█" * 12] * 2
    }  # fmt: skip


def test_a_layer_without_any_fit_has_no_bar():
    found = columns(alpha_table(report(site("layers.0.q", math.nan))))
    assert (found["mean"], found[""]) == (["-"], [""])


@pytest.mark.parametrize(
    ("alpha", "text", "style"), [(1.99, "1.99", "red"), (2.0, "2.00", ""), (6.0, "6.00", ""), (6.01, "6.01", "yellow")]
)
def test_alphas_outside_the_band_are_coloured(alpha, text, style):
    assert cell(alpha) == Text(text, style=style)
    assert cell(math.nan) == Text("-", style="dim")


def test_matrices_outside_the_layers_have_a_table_of_their_own():
    assert columns(elsewhere_table(REPORT)) == {"matrix": ["embed"], "shape": ["8x4"], "alpha": ["7.00"], "fit": ["ok"]}


def test_the_overview_ends_with_outliers_failures_and_what_was_skipped():
    first, second, *lines = overview(REPORT)
    assert isinstance(first, Table)
    assert isinstance(second, Table)
    assert lines == [
        "over-trained, alpha below 2 (weightwatcher's band): layers.0.self_attn.q_proj 1.50",
        "under-trained, alpha above 6: embed 7.00, layers.0.mlp.up_proj 6.50",
        "layers.1.self_attn.q_proj: failed: all eigenvalues are equal",
        "5 matrices analysed, 3 tensors skipped (2 1-D, no weight matrix; 1 tied: shares the storage of d)",
    ]


def test_long_lists_end_with_how_many_more_there_are():
    lines = overview(report(*(site(f"layers.{layer}.q", 1.0 + layer / 100) for layer in range(7))))[1:]
    assert lines[0].endswith("layers.4.q 1.04 and 2 more")
    assert lines[1] == "under-trained, alpha above 6: none"
    failed = overview(report(*(site(f"layers.{layer}.q", math.nan) for layer in range(7))))
    assert failed[-2] == "2 more fits failed; see the report"
    assert failed[-1] == "7 matrices analysed, 0 tensors skipped"


def test_the_band_means_nothing_for_another_estimator():
    lines = overview(report(site("layers.0.q", 1.0), estimator="hill"))[1:]
    assert lines == ["1 matrix analysed, 0 tensors skipped"]


def test_a_model_without_layers_has_only_the_table_of_what_is_elsewhere():
    table, *lines = overview(report(site("embed", 3.0)))
    assert table.title == "outside the layers"
    assert lines[-1] == "1 matrix analysed, 0 tensors skipped"
