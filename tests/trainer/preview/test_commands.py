"""`plan data` on the command line."""

import json

import pytest
from click.testing import CliRunner

from cli import main
from tests.trainer.examples import write_rows


@pytest.fixture
def file(tmp_path):
    return write_rows(tmp_path / "p.jsonl", [{"prompt": "the file", "completion": " read"}] * 3)


def plan(*arguments):
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def test_it_prints_what_the_file_is(file, tiny_llama):
    result = plan(file, "--model", tiny_llama)
    assert result.exit_code == 0, result.output
    assert "3 rows, read as completion, for causal" in result.stdout
    assert "⟦ read" in result.stdout


def test_json_is_for_machines(file, tiny_llama):
    result = plan(file, "--model", tiny_llama, "--json")
    assert json.loads(result.stdout)["rows"] == 3


def test_a_page_is_written_and_not_over_the_data(file, tiny_llama, tmp_path):
    assert plan(file, "--model", tiny_llama, "--html", tmp_path / "d.html").exit_code == 0
    assert "<mark>" in (tmp_path / "d.html").read_text()
    result = plan(file, "--model", tiny_llama, "--html", file)
    assert result.exit_code == 1
    assert "completion" in file.read_text()


def test_faults_are_one_line(tmp_path, tiny_llama):
    result = plan(write_rows(tmp_path / "x.jsonl", [{"a": "b"}]), "--model", tiny_llama)
    assert result.exit_code == 1
    assert "columns a fit no known format; say by --columns which is which" in result.stderr
