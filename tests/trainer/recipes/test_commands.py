"""The command that runs recipes, and how it runs other commands."""

import sys

import click
import pytest
from click.testing import CliRunner

import cli
from trainer.recipes.commands import run, run_command
from trainer.recipes.recipe import shipped


def test_the_help_names_every_recipe():
    assert all(name in run.help for name in shipped())


@click.group()
def group():
    """A command line."""


@group.command()
@click.option("--code", type=int, default=0)
@click.pass_context
def end(ctx, code):
    """Print, and end with a code."""
    click.echo("said")
    ctx.exit(code)


def test_a_command_that_ends_with_a_code_ends_all(capsys):
    run_command(group, ["end"])
    assert capsys.readouterr().out == "said\n"
    with pytest.raises(click.exceptions.Exit) as ended:
        run_command(group, ["end", "--code", "130"])
    assert ended.value.exit_code == 130


def test_a_quiet_command_leaves_standard_output_alone(capsys):
    run_command(group, ["end"], quiet=True)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "said\n")
    assert sys.stdout is not sys.stderr


def test_wrong_usage_of_run_is_said_as_of_any_command():
    found = CliRunner().invoke(cli.main, ["run", "uniform", "--model", "x"])
    assert found.exit_code == 2
    assert "Missing option '--data'" in found.output
