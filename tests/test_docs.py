"""What is generated in docs/ is up to date, and what its pages say to type works."""

import importlib.util
import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

import cli
import planner
import spectra
import trainer
from planner.exporters import EXPORTERS
from planner.strategies import STRATEGIES
from spectra.checkpoint.families import FAMILIES
from spectra.estimators import ESTIMATORS
from tests.models import CONFIGS, fill, save_tokenizer
from trainer.data.formats import FORMATS
from trainer.demo.classifier import link_model
from trainer.evaluation.metrics import METRICS
from trainer.initializers import INITIALIZERS
from trainer.routers import ROUTERS

DOCS = Path(__file__).parents[1] / "docs"
GOLDEN = Path(__file__).parent / "golden"
TABLES = (STRATEGIES, ESTIMATORS, ROUTERS, INITIALIZERS, FORMATS, METRICS, FAMILIES, EXPORTERS)


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(version("pydantic") < "2.14", reason="older versions word a schema otherwise")
def test_the_plan_format_is_that_of_the_code():
    made = script("plan_format")
    assert (DOCS / "reference/plan-format.md").read_text() == made.page(), "run: make pages"
    assert json.loads((DOCS / "reference/plan.schema.json").read_text()) == json.loads(json.dumps(made.schema()))


@pytest.mark.parametrize("plan", sorted(GOLDEN.glob("*-plan*.json")), ids=lambda path: path.stem)
def test_plans_are_valid_under_the_published_schema(plan):
    schema = jsonschema.Draft202012Validator(json.loads((DOCS / "reference/plan.schema.json").read_text()))
    document = json.loads(plan.read_text())
    assert not list(schema.iter_errors(document))
    assert list(schema.iter_errors(document | {"odd": 1}))


def test_the_command_line_page_is_that_of_the_commands():
    assert (DOCS / "reference/cli.md").read_text() == script("cli_page").page(), "run: make pages"


@pytest.mark.parametrize("package", [spectra, planner, trainer])
def test_the_api_page_has_every_public_name(package):
    page = (DOCS / "reference/api.md").read_text()
    missing = [name for name in package.__all__ if not re.search(rf"\b{name}\b", page)]
    assert not missing


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def commands(page):
    lines = [line for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line.removeprefix("$ plan ")) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch, small_corpus, sentences):
    """The demo's model, a tiny mixture-of-experts model and little data, under the names that the pages use."""
    import transformers

    link_model(tmp_path)
    fill(transformers.AutoModelForCausalLM.from_config(CONFIGS["olmoe"]())).save_pretrained(tmp_path / "tiny-moe")
    save_tokenizer(tmp_path / "tiny-moe")
    for source, name in (*zip(small_corpus, ("train.jsonl", "test.jsonl"), strict=True), (sentences, "text.jsonl")):
        (tmp_path / name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.training
def test_the_four_systems_are_reproduced_as_written(folder):
    for arguments in commands("guide/reproducing.md"):
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert {len(site.ranks) for site in planner.Plan.load("smoe.json").sites} <= {0, 1, 2}
    assert planner.Plan.load("alphalora.json").budget.spent == 30
    assert planner.Plan.load("grown/plan.json").strategy == "dr-lora-grown"


@pytest.fixture
def tables_restored():
    """What a page adds to the tables is forgotten after it."""
    before = [dict(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def test_the_tables_are_extended_as_written(folder, tables_restored):
    """One process, one namespace, block after block: what is added can be chosen in settings, on the command line, in reports."""
    page = "guide/extending.md"
    assert len(blocks(page, "python")) == 8
    exec("\n".join(blocks(page, "python")), {"__name__": "page"})
    assert {"lower-first"} <= STRATEGIES.keys()
    assert {"top-tenth"} <= ESTIMATORS.keys()
    assert {"above"} <= ROUTERS.keys()


@pytest.mark.parametrize("page", sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (DOCS / page).read_text())
    assert all(((DOCS / page).parent / link).exists() for link in links if "://" not in link)


def test_the_citation_is_of_this_version():
    import spectra

    assert f"\nversion: {spectra.__version__}\n" in (Path(__file__).parents[1] / "CITATION.cff").read_text()
