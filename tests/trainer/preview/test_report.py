"""A data report is a document like the others."""

from tests.trainer.preview.test_tables import REPORT
from trainer.preview.report import DataReport


def test_a_report_comes_back_from_its_file(tmp_path):
    REPORT.save(tmp_path / "data.json")
    assert DataReport.load(tmp_path / "data.json") == REPORT
