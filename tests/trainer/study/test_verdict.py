"""What a study says in three lines."""

import numpy as np

from tests.trainer.study.examples import study_of
from trainer.study.report import BASELINE, Binding, Power, Size
from trainer.study.verdict import verdict

BASE = np.array([0.5, 0.6, 0.7])
STEADY = np.array([0.0, 0.001, -0.001])
BINDING = Binding(
    test="t", measure="loss", sizes=(Size(arm="small", parameters=250, mean=1.0), Size(arm=BASELINE, parameters=1000, mean=1.0)),
    differences=(), binds=False, enough=250, possible=0.004,
)  # fmt: skip


def test_better_and_worse_plans_are_named_with_their_size_and_the_others_counted():
    study = study_of(
        {BASELINE: {"t": BASE}, "up": {"t": BASE + 0.05 + STEADY}, "down": {"t": BASE - 0.05 + STEADY},
         "wild": {"t": BASE + np.array([0.2, -0.1, 0.05])}, "head-only": {"t": BASE - 0.3 + STEADY}},
        "accuracy",
    )  # fmt: skip
    budget, plans, means = verdict(study).splitlines()
    assert budget == "Whether the budget binds was not asked (`binding` skip)."
    assert plans.startswith(
        "up beats uniform LoRA by 5.00 points (4.75 to 5.25); down loses to uniform LoRA by 5.00 points (4.75 to"
    )
    assert "; 1 other is not told apart from it." in plans
    assert "head-only" not in plans.partition("Beside")[0]
    assert means.startswith("3 seeds on 20 examples; 0 of 10 runs diverged.")


def test_nothing_is_claimed_where_nothing_is_told_apart():
    study = study_of({BASELINE: {"t": BASE}, "wild": {"t": BASE + np.array([0.2, -0.1, 0.05])}}, "loss")
    assert (
        verdict(study)
        .splitlines()[1]
        .startswith("No plan is told apart from uniform LoRA; the largest difference is wild's, +0.050 nats per token (-0.")
    )


def test_losses_read_as_losses():
    losses = np.array([3.006, 3.007, 3.004])
    study = study_of({BASELINE: {"t": losses}, "less": {"t": losses - 0.0125 + STEADY / 10}}, "loss")
    assert verdict(study).splitlines()[1].startswith("less beats uniform LoRA by 0.013 nats per token (0.012 to 0.013).")


def test_a_study_that_stopped_says_why_and_what_is_enough():
    study = study_of({BASELINE: {"t": BASE}, "plan": {"t": BASE}}, "loss", differences=(), between=(), binding=BINDING)
    budget, plans, _ = verdict(study).splitlines()
    assert budget.startswith(
        "The budget does not bind: uniform LoRA of 250 parameters loses less than 0.010 nats per token to any of up to 1,000."
    )
    assert plans.startswith("No plans were compared: where size does not matter, place cannot either")


def test_what_the_study_could_show_is_said():
    power = Power(test="t", measure="loss", seeds=3, examples=20, detectable=0.0123)
    study = study_of({BASELINE: {"t": BASE}, "plan": {"t": BASE}}, "loss", power=power)
    assert "four of five such studies find a difference of 0.012 nats per token" in verdict(study).splitlines()[2]
