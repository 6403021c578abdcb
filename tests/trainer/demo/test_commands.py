"""The demo's command: a recipe, what comes after it, and a summary."""

from click.testing import CliRunner

import cli
from spectra import InputError
from trainer.demo import classifier, language
from trainer.demo.step import Inputs, Step
from trainer.recipes import commands as recipes


def test_a_demo_runs_its_recipe_then_its_own_steps_and_sums_up(tmp_path, monkeypatch):
    inputs = Inputs(model=tmp_path / "model", train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
    ran, made = [], []
    monkeypatch.setattr(classifier, "prepare", lambda folder: inputs)
    monkeypatch.setattr(classifier, "summary", lambda folder: ["that was it"])
    step = Step(arguments=("show", "plan.json"), comment="And now", before=lambda: made.append("before"))
    monkeypatch.setattr(classifier, "afterwards", lambda folder: [step])
    monkeypatch.setattr("trainer.demo.commands.run_command", lambda group, arguments: ran.append(arguments))
    monkeypatch.setattr(recipes.run, "callback", lambda **given: ran.append((given["recipe"], given["model"], given["small"])))
    found = CliRunner().invoke(cli.main, ["demo", "--classifier", "-o", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert ran == [("demo-classifier", str(inputs.model), False), ("show", "plan.json")]
    assert made == ["before"]
    shown = [line for line in found.output.splitlines() if line.startswith("$ plan")]
    assert (
        shown[0] == f"$ plan run demo-classifier --model {inputs.model} --data {inputs.train} --test {inputs.test} -o {tmp_path}"
    )
    assert shown[1] == "$ plan show plan.json"
    assert found.output.rstrip().endswith("that was it")


def test_a_demo_without_its_model_is_one_line(tmp_path, monkeypatch):
    def missing(folder):
        raise InputError("the demo's model is not installed")

    monkeypatch.setattr(language, "prepare", missing)
    found = CliRunner().invoke(cli.main, ["demo", "-o", str(tmp_path)])
    assert (found.exit_code, "Error: the demo's model is not installed" in found.output) == (1, True)
