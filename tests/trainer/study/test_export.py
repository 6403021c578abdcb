"""A study's tables as CSV, Markdown and LaTeX."""

import csv

import numpy as np

from tests.trainer.study.examples import files_of, scores_of, study_of
from trainer.study.differences import adjusted
from trainer.study.export import TABLES, write_tables
from trainer.study.report import BASELINE, Binding, Size

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


def test_a_study_that_stopped_has_its_sizes_as_a_table(tmp_path):
    scores = scores_of({"small": {"t": BASE + 0.05 + STEADY}, BASELINE: {"t": BASE}}, "loss")
    found = adjusted([scores.difference("small", BASELINE, "t", files_of(["t"], "loss"), "loss")])
    sizes = (Size(arm="small", parameters=250, mean=0.65), Size(arm=BASELINE, parameters=1000, mean=0.6))
    binding = Binding(test="t", measure="loss", sizes=sizes, differences=tuple(found), binds=True, enough=1000, possible=0.05)
    write_tables(study_of({BASELINE: {"t": BASE}}, "loss", binding=binding, differences=()), tmp_path)
    lines = (tmp_path / "study.md").read_text().splitlines()
    assert "| t, uniform LoRA | loss | minus the largest | low | high | p |" in lines
    assert lines[-2].startswith("| 250 | 0.6500 | 0.0500 | 0.0475 | 0.0525 | 0.0001")
    assert lines[-1] == "| 1,000 | 0.6000 |  |  |  |  |"
