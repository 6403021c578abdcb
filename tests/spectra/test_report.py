import math

import pytest

from spectra import InputError, SpectraReport, load_spectra
from spectra.report import Uncertainty


def test_sites_are_found_by_name_with_their_alphas(spectra_report):
    name = "encoder.layer.3.attention.self.query"
    site = spectra_report.by_name()[name]
    assert (site.name, site.module, site.shape) == (name, name, (384, 384))
    assert spectra_report.alphas()[name] == site.alpha
    assert list(spectra_report.alphas()) == [entry.name for entry in spectra_report.sites]


def test_a_report_says_whose_exponents_it_holds(spectra_report, tmp_path):
    assert spectra_report.estimator == "clauset"
    (tmp_path / "alphas.csv").write_text("name,rows,cols,alpha\nlayers.0.up,8,8,3\n")
    table = load_spectra(tmp_path / "alphas.csv")
    assert (table.settings, table.estimator) == (None, "table")


def test_a_model_of_no_weights_is_refused(spectra_report, tmp_path):
    empty = spectra_report.to_json().replace(f'"parameters": {spectra_report.model.parameters}', '"parameters": 0')
    (tmp_path / "spectra.json").write_text(empty)
    with pytest.raises(InputError, match=r"model.parameters: .*greater than or equal to 1, got 0"):
        SpectraReport.load(tmp_path / "spectra.json")


def test_what_was_not_asked_for_is_unknown_and_not_zero():
    nothing = Uncertainty()
    assert (nothing.interval, nothing.comparisons) == (None, ())
    assert math.isnan(nothing.subsample_variation)
    assert math.isnan(nothing.iid_p)
