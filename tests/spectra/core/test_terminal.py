"""Options made from settings, progress, printing, and messages in the command line's words."""

import logging
from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from spectra import InputError
from spectra.core import terminal
from spectra.core.documents import Value
from spectra.core.methods import Choice, Method, OneOf


class FastSettings(Value):
    speed: Annotated[int, Field(ge=1)] = 3
    """How fast."""


WAYS = {"slow": Method(lambda: "slow"), "fast": Method(lambda: "fast", FastSettings)}
COLOURS = {"red": 1, "green": 2}


class Settings(Value):
    way: Annotated[Choice, OneOf(WAYS, "way")] = "slow"
    """Way to go, with `colour` beside it."""
    colour: Annotated[str, OneOf(COLOURS, "colour")] = "red"
    """Colour to paint."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Things to count."""
    side: Literal["left", "right"] = "left"
    """Side to stand on."""
    loud: bool = False
    """Say it loudly."""


@pytest.fixture
def command():
    @click.command(cls=terminal.SettingsCommand, settings=Settings, without=("count",))
    @click.option("--where", default="here", help="A place.")
    @click.option("--config", is_eager=True, expose_value=False, type=terminal.PATH, callback=terminal.from_yaml)
    @click.option("--shares", callback=terminal.numbers)
    def go(where, shares, settings):
        click.echo(
            f"{where} {shares} {settings.way.name} {settings.way.settings} {settings.colour} {settings.side} {settings.loud}"
        )

    return go


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_every_setting_is_an_option_with_its_default_and_help(command):
    shown = run(command, "--help").output
    for words in (
        "--way [slow|fast]",
        "[default: slow]",
        "--colour [red|green]",
        "--side [left|right]",
        "--loud",
        "fast: How fast.",
    ):
        assert words in shown
    assert "Way to go, with colour beside it." in " ".join(shown.split())
    assert "--count" not in shown
    assert run(command).output == "here None slow  red left False\n"


def test_a_methods_own_setting_reaches_it(command):
    assert run(command, "--way", "fast", "--speed", 7, "--loud").output == "here None fast speed=7 red left True\n"
    assert run(command, "--way", "fast").output == "here None fast speed=3 red left False\n"


def test_a_setting_of_another_method_is_refused(command):
    result = run(command, "--speed", 7)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "`speed` is a setting of way fast, not of way slow"


def test_a_method_added_at_run_time_can_be_chosen(command, monkeypatch):
    class AgainSettings(Value):
        times: int = 2
        """How often."""

    assert run(command, "--way", "again").exit_code == 2
    monkeypatch.setitem(WAYS, "again", Method(lambda: "again", AgainSettings))
    assert run(command, "--way", "again", "--times", 5).output == "here None again times=5 red left False\n"
    assert "--times" in run(command, "--help").output


def test_wrong_values_are_wrong_usage_or_bad_input(command):
    assert "'blue' is not one of red, green" in run(command, "--colour", "blue").output
    assert run(command, "--colour", "blue").exit_code == 2
    result = run(command, "--way", "fast", "--speed", 0)
    assert "way fast: speed: Input should be greater than or equal to 1, got 0" in str(result.exception)
    assert "'a,b' is no list of numbers such as 2,1" in run(command, "--shares", "a,b").output
    assert run(command, "--shares", "2,1.5").output.startswith("here [2.0, 1.5] slow")


def test_options_from_a_file(command, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("way: fast\nspeed: 9\nwhere: there\n")
    assert run(command, "--config", path).output == "there None fast speed=9 red left False\n"
    assert run(command, "--config", path, "--where", "here").output.startswith("here")
    path.write_text("velocity: 9\n")
    assert f"{path}: unknown option 'velocity'" in str(run(command, "--config", path).exception)
    path.write_text("a: [\n")
    assert "cannot be read" in str(run(command, "--config", path).exception)


def test_settings_in_backticks_become_options_of_the_command(command):
    ctx = click.Context(command)
    said = terminal.as_options("`speed` is too large for `where`; see `plan check` and `unknown`", ctx)
    assert said == "--speed is too large for --where; see `plan check` and `unknown`"


def test_log_records_go_to_standard_error(capsys):
    handler = terminal.EchoHandler()
    handler.emit(logging.LogRecord("loraplan", logging.INFO, "", 0, "adapted %s", ("it",), None))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "adapted it\n")


def test_a_progress_bar_appears_with_the_first_report(capsys):
    with terminal.progress_bar("counting"):
        pass
    assert capsys.readouterr().err == ""
    with terminal.progress_bar("counting") as progress:
        progress(1, 2, "one")
        progress(2, 2, "two")
    assert "counting" in capsys.readouterr().err


def test_what_is_shown_goes_to_standard_output(capsys):
    terminal.show("one", "two")
    assert capsys.readouterr().out == "one\ntwo\n"
