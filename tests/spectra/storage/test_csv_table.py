import csv
import math
import warnings

import pytest

from spectra import InputError, load_spectra
from spectra.estimators.fits import FitStatus
from spectra.storage.csv_table import to_csv

GOOD = "name,rows,cols,alpha,note\nm.layers.0.q,8,4,2.5,x\nm.layers.0.v,2,4,-1,y\n"


def test_a_plain_table_with_extra_columns(tmp_path):
    path = tmp_path / "alphas.csv"
    path.write_text(GOOD)
    first, second = load_spectra(path).sites
    assert (first.name, first.shape, first.alpha) == ("m.layers.0.q", (8, 4), 2.5)
    assert math.isnan(second.alpha)  # weightwatcher's failed fit is no number


@pytest.mark.training
def test_weightwatchers_details_table(tmp_path, minilm, spectra_report):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import weightwatcher

        weightwatcher.WeightWatcher().analyze(model=str(minilm)).to_csv(tmp_path / "details.csv")
    ours = spectra_report.by_name()
    sites = load_spectra(tmp_path / "details.csv").sites
    assert len(sites) == 39
    for site in sites:
        assert site.alpha == pytest.approx(ours[site.name].alpha, rel=1e-9)
        assert sorted(site.shape) == sorted(ours[site.name].shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,rows,alpha\na,1,2\n", r"column 'cols' is missing; needed are name, rows, cols, alpha"),
        ("name,rows,cols,alpha\n", "no rows"),
        ("", "column 'name' is missing"),
        ("name,rows,cols,alpha\na,8,4,two\n", r"alphas.csv:2: 'two' is not a number"),
        ("name,rows,cols,alpha\na,8,4,2\nb,0,4,2\n", r"alphas.csv:3: '0' is not the side of a matrix"),
        ("name,rows,cols,alpha\na,8,4,2\na,8,4,3\n", "'a' appears 2 times"),
        ("name,rows,cols,alpha\na,8,4,inf\n", r"alphas.csv:2: alpha inf is no exponent"),
        ("name,rows,cols,alpha\n,8,4,2\n", r"alphas.csv:2: the module has no name"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path, content, message):
    path = tmp_path / "alphas.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_spectra(path)


def test_a_report_as_a_table_is_read_again(tmp_path, spectra_report):
    to_csv(spectra_report, tmp_path / "alphas.csv")
    again = load_spectra(tmp_path / "alphas.csv")
    assert [(site.name, site.shape, site.alpha) for site in again.sites] == [
        (site.name, site.shape, site.alpha) for site in spectra_report.sites
    ]


def test_a_table_holds_everything_that_a_report_knows_of_a_site(tmp_path, spectra_report):
    to_csv(spectra_report, tmp_path / "alphas.csv")
    first, *_ = csv.DictReader((tmp_path / "alphas.csv").read_text().splitlines())
    site = spectra_report.sites[0]
    assert list(first)[:4] == ["name", "rows", "cols", "alpha"]
    assert float(first["alpha_hill"]) == site.fits["hill"].alpha
    assert float(first["stable_rank"]) == site.metrics.stable_rank
    assert (first["status"], int(first["n_cut"])) == (str(site.status), site.n_cut)


def test_a_table_from_a_spreadsheet_is_read_and_an_empty_alpha_is_a_failed_fit(tmp_path):
    (tmp_path / "alphas.csv").write_bytes(b"\xef\xbb\xbfname,rows,cols,alpha\r\nm.layers.0.q,8,4,\r\n")
    report = load_spectra(tmp_path / "alphas.csv")
    assert (report.model.name, report.model.parameters, report.model.fingerprint) == ("alphas", 32, None)
    assert math.isnan(report.sites[0].alpha)
    assert report.sites[0].status is FitStatus.NO_EXPONENT


def test_what_is_no_text_is_no_table(tmp_path):
    (tmp_path / "alphas.csv").write_bytes(b"name,\xff\xfe")
    with pytest.raises(InputError, match=r"alphas.csv: not a CSV table: "):
        load_spectra(tmp_path / "alphas.csv")
    with pytest.raises(InputError, match=r"none.csv: No such file"):
        load_spectra(tmp_path / "none.csv")
