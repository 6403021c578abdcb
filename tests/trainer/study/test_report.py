"""The report of a study as a document."""

import json
import math

import numpy as np
import pytest

from spectra import InputError
from tests.trainer.study.examples import study_of
from trainer.study.report import BASELINE, Difference, StudyReport

BASE = np.array([0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("difference", "p", "better", "worse"),
    [(-0.1, 0.01, True, False), (0.1, 0.01, False, True), (-0.1, 0.2, False, False), (-0.1, math.nan, False, False)],
)
def test_better_is_what_the_measure_says_and_chance_does_not(difference, p, better, worse):
    values = {"arm": "a", "other": "b", "test": "t", "mean": 1.0, "error": 0.1, "low": -1.0, "high": 1.0, "seeds": 3}
    loss = Difference(measure="loss", difference=difference, p=p, **values)
    accuracy = Difference(measure="accuracy", difference=-difference, p=p, **values)
    assert (loss.better, loss.worse) == (accuracy.better, accuracy.worse) == (better, worse)
    assert loss.significant == (better or worse)


def test_a_study_comes_back_and_needs_the_arm_that_all_are_compared_with(tmp_path):
    study = study_of({BASELINE: {"t": BASE}, "plan": {"t": BASE}}, "accuracy")
    study.save(tmp_path / "study.json")
    assert StudyReport.load(tmp_path / "study.json").to_json() == study.to_json()
    data = json.loads((tmp_path / "study.json").read_text())
    for change, message in {
        "uniform": "arms must have names of their own, and one must be uniform-lora",
        "plan": "arms must have names of their own",
    }.items():
        data["arms"][0]["name"] = change
        (tmp_path / "study.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=message):
            StudyReport.load(tmp_path / "study.json")


def test_a_difference_of_an_unknown_arm_or_measure_is_refused(tmp_path):
    study = study_of({BASELINE: {"t": BASE}, "plan": {"t": BASE}}, "accuracy")
    for change, message in {"arm": "a difference of nothing", "measure": "measure 'nothing' is not one of"}.items():
        data = json.loads(study.to_json())
        data["differences"][1][change] = "nothing"
        (tmp_path / "study.json").write_text(json.dumps(data))
        with pytest.raises(InputError, match=message):
            StudyReport.load(tmp_path / "study.json")


def test_conclusions_rest_on_all_files_of_a_measure():
    one = study_of({BASELINE: {"t": BASE}, "plan": {"t": BASE}}, "loss")
    two = study_of({BASELINE: {"t": BASE, "u": BASE}, "plan": {"t": BASE, "u": BASE}}, "loss")
    assert one.whole() == ("t",)
    assert two.whole() == ("all tests (loss)",)
    assert two.arm("plan").name == "plan"
    assert not two.stopped
