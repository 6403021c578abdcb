"""The documents of a run: read back as they were written, NaN as nothing, and only answers that have scores."""

import json
import math

import pytest

from spectra import InputError
from spectra.report import ModelInfo
from trainer import Evaluation, RunReport, TrainSettings
from trainer.report import EvaluationPoint, GrowthEvent, GrowthHistory, LogPoint, RouterHealth, TaskEvaluation

HEALTH = RouterHealth(site="layers.0.q", shares=(0.25, 0.75), entropy=0.5, effective_support=1.75, dropped=math.nan)


def run_report(**changes):
    values = {
        "model": ModelInfo(name="model", parameters=100, fingerprint="sha256:x"), "strategy": "uniform",
        "settings": TrainSettings(router={"name": "sira", "settings": {"capacity": 2.0}}), "examples": 8, "truncated": 1,
        "steps": 2, "adapter_parameters": 10, "head_parameters": 0,
        "curve": (LogPoint(step=1, loss=2.0, learning_rate=1e-3), LogPoint(step=2, loss=math.nan, learning_rate=0.0)),
    }  # fmt: skip
    return RunReport(**values | changes)


def test_a_run_report_comes_back_with_what_could_not_be_measured_as_nan(tmp_path):
    report = run_report(routers=(HEALTH,), evaluations=(EvaluationPoint(step=2, loss=1.5),), best_step=2)
    report.save(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["curve"][1]["loss"] is None
    back = RunReport.load(tmp_path / "run.json")
    assert back.to_json() == text
    assert math.isnan(back.curve[1].loss)
    assert math.isnan(back.curve[0].entropy)
    assert math.isnan(back.routers[0].dropped)
    assert back.settings == report.settings


def test_a_file_of_another_kind_or_with_unknown_keys_is_refused(tmp_path):
    run_report().save(tmp_path / "run.json")
    with pytest.raises(InputError, match="expected a 'evaluation' file, found kind 'run'"):
        Evaluation.load(tmp_path / "run.json")
    odd = json.loads((tmp_path / "run.json").read_text()) | {"routes": []}
    (tmp_path / "run.json").write_text(json.dumps(odd))
    with pytest.raises(InputError, match=r"run\.json: routes: Extra inputs are not permitted"):
        RunReport.load(tmp_path / "run.json")


@pytest.mark.parametrize("made", [Evaluation, TaskEvaluation])
def test_rows_are_the_answers_that_have_scores_in_the_order_in_which_they_are_shown(made):
    name = {"name": "t"} if made is TaskEvaluation else {"truncated": 0}
    whole = made(examples=2, trained={"loss": 1.0}, untrained={"loss": 2.0}, majority={"accuracy": 0.5}, **name)
    assert list(whole.rows().items()) == [
        ("fine-tuned", {"loss": 1.0}), ("untrained", {"loss": 2.0}), ("majority class", {"accuracy": 0.5})
    ]  # fmt: skip
    assert list(made(examples=2, trained={"loss": 1.0}, untrained={}, majority={}, **name).rows()) == ["fine-tuned"]


def test_scores_that_are_nan_come_back_as_nan(tmp_path):
    task = TaskEvaluation(name="t", examples=1, trained={"loss": math.nan}, untrained={}, majority={})
    Evaluation(tasks=(task,), examples=1, truncated=0, trained={"loss": math.nan}, untrained={}, majority={}).save(tmp_path / "e")
    back = Evaluation.load(tmp_path / "e")
    assert math.isnan(back.trained["loss"])
    assert math.isnan(back.tasks[0].trained["loss"])


def test_a_growth_history_comes_back(tmp_path):
    event = GrowthEvent(step=3, ranks={"layer": (1, 2)}, shares={"layer": (0.5, 0.5)}, saliency={"layer": ()})
    GrowthHistory(events=(event,)).save(tmp_path / "growth.json")
    assert GrowthHistory.load(tmp_path / "growth.json").events == (event,)
