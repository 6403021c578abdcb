"""What a study says in plain words."""

import json
import math

import numpy as np
import pytest

from spectra import InputError
from tests.trainer.study.examples import study_of
from trainer.study.report import BASELINE, Difference, StudyReport, sentence

BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])


def test_better_worse_and_undecided_are_said_with_their_size():
    study = study_of(
        {BASELINE: {"t": BASE}, "up": {"t": BASE + 0.05 + STEADY}, "down": {"t": BASE - 0.05 + STEADY},
         "wild": {"t": BASE + np.array([0.2, -0.1, 0.05])}, "head-only": {"t": BASE - 0.3}},
        "accuracy",
    )  # fmt: skip
    up, down, wild = sentence(study).splitlines()  # the head alone is a baseline, not a plan
    half = 100 * study.differences[1].high - 5
    assert up == f"up beats uniform LoRA by +5.00 +- {half:.2f} points (better on 1, worse on 0 of 1 tasks)."
    assert down == f"down loses to uniform LoRA by -5.00 +- {half:.2f} points (better on 0, worse on 1 of 1 tasks)."
    assert wild.startswith("wild: no significant difference from uniform LoRA (+5.00 +- ")
    assert wild.endswith(f" points; {study.differences[3].seeds_needed} seeds might be enough).")


def test_of_several_tasks_the_pooled_one_counts_and_the_others_are_counted():
    study = study_of(
        {BASELINE: {"one": BASE, "two": BASE}, "plan": {"one": BASE + 0.1 + STEADY, "two": BASE - 0.02 + STEADY}}, "accuracy"
    )
    assert sentence(study).startswith("plan beats uniform LoRA by +4.00 +- ")
    assert sentence(study).endswith("(better on 1, worse on 1 of 2 tasks).")


def test_losses_read_as_losses():
    """Scores are minus the loss; what is said is how much less the loss is, to three digits."""
    losses = np.array([3.006, 3.007, 3.004])
    study = study_of({BASELINE: {"t": -losses}, "less": {"t": -losses + 0.0125 + STEADY}}, "loss")
    assert sentence(study) == "less beats uniform LoRA by +0.013 +- 0.002 nats per token (better on 1, worse on 0 of 1 tasks)."


def test_one_seed_gives_a_difference_and_no_interval():
    study = study_of({BASELINE: {"t": BASE[:1]}, "plan": {"t": BASE[:1] + 0.02}}, "accuracy")
    assert sentence(study) == "plan: +2.00 points from uniform LoRA in one seed, which gives no interval."


@pytest.mark.parametrize(
    ("low", "high", "significant"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (math.nan, math.nan, False)]
)
def test_a_difference_is_significant_where_its_interval_excludes_zero(low, high, significant):
    one = Difference(candidate="a", task="t", mean=0, standard_error=0, difference=0, low=low, high=high, seeds_needed=None)
    assert one.significant == significant


def test_a_study_comes_back_and_needs_two_candidates(tmp_path):
    study = study_of({BASELINE: {"t": BASE[:1]}, "plan": {"t": BASE[:1]}}, "accuracy")
    study.save(tmp_path / "study.json")
    assert StudyReport.load(tmp_path / "study.json").to_json() == study.to_json()
    data = json.loads((tmp_path / "study.json").read_text())
    data["candidates"] = data["candidates"][:1]
    (tmp_path / "study.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"candidates: .*at least 2 items"):
        StudyReport.load(tmp_path / "study.json")
