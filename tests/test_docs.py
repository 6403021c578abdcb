"""What is generated in docs/ is up to date, and what its pages say to type works."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import transformers
from click.testing import CliRunner

import cli
import planner.strategies
import spectra.estimators
import trainer.layers.mixture
import trainer.routers
from tests.conftest import save_with_tokenizer
from trainer.demo import link_model

DOCS = Path(__file__).parents[1] / "docs"


def test_the_plan_format_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("plan_format", DOCS / "plan_format.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "plan-format.md").read_text() == module.page(), "run: python docs/plan_format.py"
    assert json.loads((DOCS / "plan.schema.json").read_text()) == json.loads(json.dumps(module.schema()))


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def commands(page):
    lines = [line for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line.removeprefix("$ plan ")) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch, small_corpus, sentences):
    """The demo's model, a tiny mixture-of-experts model and little data, under the names that the pages use."""
    link_model(tmp_path)
    config = transformers.OlmoeConfig(
        hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, num_experts=4,
        num_experts_per_tok=2, vocab_size=400, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    save_with_tokenizer(config, tmp_path / "tiny-moe")
    for source, name in (*zip(small_corpus, ("train.jsonl", "test.jsonl"), strict=True), (sentences, "text.jsonl")):
        (tmp_path / name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_four_systems_are_reproduced_as_written(folder):
    for arguments in commands("reproducing.md"):
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert {len(site.ranks) for site in planner.Plan.load("smoe.json").sites} <= {0, 1, 2}
    assert planner.Plan.load("alphalora.json").budget.spent == 30
    assert planner.Plan.load("grown/plan.json").strategy == "dr-lora-grown"


def test_the_tables_are_extended_as_written(folder, monkeypatch):
    for module, table in ((planner.strategies, "STRATEGIES"), (spectra.estimators, "ESTIMATORS"), (trainer.routers, "ROUTERS")):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))  # what a page adds is forgotten after it
    monkeypatch.setattr(planner.allocation, "STRATEGIES", planner.strategies.STRATEGIES)
    monkeypatch.setattr(trainer.mixture, "ROUTERS", trainer.routers.ROUTERS)
    found = blocks("extending.md", "python")
    assert len(found) == 3
    for block in found:
        exec(block, {"__name__": "page"})


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (DOCS / page).read_text())
    assert all((DOCS / link).exists() for link in links if "://" not in link)
