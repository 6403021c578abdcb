"""The README's commands and its Python block run as printed, in a folder with the demo's model and little data."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from trainer.demo import link_model

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch, small_corpus):
    link_model(tmp_path)
    for path in small_corpus:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_console_block(folder):
    (block,) = blocks("console")
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines() if line.startswith("$ ")]
    assert [command[1] for command in commands] == ["analyze", "probe", "allocate", "train", "evaluate", "plot"]
    for program, *arguments in commands:
        assert program == "plan"
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert len(list((folder / "plots").iterdir())) == 12


def test_the_python_block(folder, capsys):
    (block,) = blocks("python")
    exec(block, {})
    assert float(capsys.readouterr().out) == pytest.approx(7.836, abs=1e-3)
    assert (folder / "alphalora.json").is_file()


def test_the_first_output_stands_early():
    assert README[: README.index("Reached")].count("\n") < 30
