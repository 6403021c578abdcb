"""The README's commands and its Python block run as printed, in a folder with the demo's model and little data."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from tests import models
from tests.models import save_with_tokenizer
from trainer.demo.classifier import link_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    link_model(tmp_path)
    # A tiny model and few words in the place of the demo's, whose commands they are.
    save_with_tokenizer(models.CONFIGS["llama"](hidden_size=256, intermediate_size=512), tmp_path / "SmolLM2-135M-Instruct")
    rows = [{"prompt": f"{one} the {two} ", "completion": one} for one in models.WORDS[5:12] for two in models.WORDS[12:18]]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.training
def test_the_console_block(folder):
    (block,) = blocks("console")
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines() if line.startswith("$ ")]
    assert [command[1] for command in commands] == ["analyze", "probe", "allocate", "train", "evaluate", "report"]
    for program, *arguments in commands:
        assert program == "plan"
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    headings = re.findall(r"<h1[^>]*>(\w+)", (folder / "report.html").read_text())
    assert headings == ["Spectra", "Plan", "Run", "Plan"]


def test_the_python_block(folder, capsys):
    (block,) = blocks("python")
    exec(block, {})
    assert float(capsys.readouterr().out) == pytest.approx(7.836, abs=1e-3)
    assert (folder / "alphalora.json").is_file()


def test_the_first_output_stands_early():
    assert README[: README.index("Reached")].count("\n") < 30


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_paths_lead_somewhere(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert all((ROOT / link).exists() for link in links if "://" not in link)
    paths = re.findall(r"`((?:spectra|planner|trainer|tests|docs|benchmarks)/[\w./-]*)`", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
