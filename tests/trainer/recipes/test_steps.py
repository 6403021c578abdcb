"""The table of steps: what each command is given, and that the command line understands it."""

from pathlib import Path

import pytest

import cli
from trainer.recipes.steps import ORDER, Place, line


def place(*steps):
    return Place(folder=Path("out"), model="m", data=("a", "b"), tests=("t",), steps=steps)


WHOLE = place("analyze", "probe", "allocate", "train", "evaluate", "plot", "report")


@pytest.mark.parametrize("step", ORDER)
def test_a_step_is_a_command_that_the_command_line_understands(step):
    options = {"budget": "1%"} if step == "allocate" else {}
    name, *arguments = line(step, options, WHOLE)
    command = cli.main.commands[name]
    assert command.make_context(name, list(arguments)).params  # wrong usage would raise


def test_every_step_reads_what_earlier_ones_wrote():
    written = {"m", "a", "b", "t"}
    for step in ORDER:
        *_, read = [set(line(step, {}, WHOLE))]
        output = f"out/{ORDER[step].output}" if ORDER[step].output else None
        assert {part for part in read if part.startswith("out/")} - {output} <= written
        written.add(output)


def test_a_plan_is_made_from_the_reports_that_there_are():
    assert line("allocate", {}, place("allocate")) == ("allocate", "--model", "m", "-o", "out/plan.json")
    assert line("allocate", {}, place("analyze", "allocate"))[1:3] == ("--spectra", "out/spectra.json")
    assert line("allocate", {}, place("probe", "allocate"))[1:3] == ("--sensitivity", "out/sensitivity.json")
    assert "--model" not in line("allocate", {}, WHOLE)


def test_options_replace_what_a_step_gives_by_itself_and_flags_have_no_value():
    given = {"spectra": "mine.csv", "parity": "true", "verbose": "false"}
    assert line("allocate", given, place("analyze", "allocate")) == (
        "allocate", "--spectra", "mine.csv", "--parity", "-o", "out/plan.json",
    )  # fmt: skip


def test_an_option_may_be_repeated():
    assert line("train", {}, WHOLE)[2:] == ("--model", "m", "--data", "a", "--data", "b", "-o", "out/run")
