"""A step of a demo."""

from trainer.demo.step import Step


def test_a_step_is_what_a_user_would_type():
    step = Step(arguments=("show", "plan.json"))
    assert (step.arguments, step.comment, step.before) == (("show", "plan.json"), "", None)
