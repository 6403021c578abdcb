"""A study's tables as CSV, Markdown and LaTeX."""

import csv

import numpy as np

from tests.trainer.study.examples import study_of
from trainer.study.export import TABLES, write_tables
from trainer.study.report import BASELINE

BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])


def test_all_three_have_every_arm_on_every_test(tmp_path):
    study = study_of({BASELINE: {"a_b": BASE}, "up|1": {"a_b": BASE + 0.05 + STEADY}}, "accuracy")
    paths = write_tables(study, tmp_path)
    assert [path.name for path in paths] == list(TABLES.values())
    rows = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert [row["plan"] for row in rows] == [BASELINE, "up|1"]
    assert (rows[1]["difference"], rows[1]["mean"], rows[1]["seeds"]) == ("5.000", "65.000", "3")
    assert (rows[0]["difference"], rows[0]["p"]) == ("", "")
    markdown = (tmp_path / "study.md").read_text()
    assert r"**up\|1**" in markdown
    assert "up|1 beats uniform LoRA by 5.00 points" in markdown
    latex = (tmp_path / "study.tex").read_text()
    assert r"a\_b & up|1 & 1,004 & 65.000 & 5.000$^{*}$ & [4.752, 5.248] \\" in latex
    assert latex.count("{tabular}") == 2
