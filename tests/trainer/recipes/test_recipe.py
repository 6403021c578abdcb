"""Recipes: what a file may say, its small section, and changes from the command line."""

import pytest

from spectra import InputError
from trainer.recipes.recipe import LIBRARY, Recipe, parse_changes, shipped

OFFERS = {"allocate": ["budget", "depth"], "train": ["epochs", "seed", "max-steps", "precision"], "evaluate": ["precision"]}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: mine\nsteps:\n  allocate:\n    budget: 1%\n  train:\n    epochs: 3\n  evaluate:\nsmall:\n  train:\n    epochs:\n"
        "    max-steps: 2\n"
    )
    return Recipe.load(str(path))


def test_a_recipe_of_the_library_is_found_by_name():
    assert {"alphalora", "lora-smoe", "sira", "dr-lora", "mola", "uniform", "demo"} <= set(shipped())
    for name in shipped():
        assert Recipe.load(name) == Recipe.load(str(LIBRARY / f"{name}.yaml"))
        assert Recipe.load(name).small or name == "demo-classifier"


@pytest.mark.parametrize("name", ["alphalora", "lora-smoe", "sira", "dr-lora"])
def test_every_setting_of_a_published_system_names_its_source(name):
    text = (LIBRARY / f"{name}.yaml").read_text()
    settings = [line for line in text.partition("small:")[0].splitlines() if line.startswith("    ")]
    marks = ("[abstract]", "[code]", "[readme]", "[reading]", "[choice]")
    plain = ("strategy:", "router:", "grow:", "trial-steps:", "max-experts: 1 ")  # what makes the system the one it is
    unmarked = [line for line in settings if not any(mark in line for mark in marks) and not line.strip().startswith(plain)]
    assert unmarked == []
    assert settings


def test_the_small_section_replaces_options_and_an_empty_one_takes_them_away(recipe):
    assert recipe.steps["train"] == {"epochs": "3"}
    assert recipe.with_small().steps == {"allocate": {"budget": "1%"}, "train": {"max-steps": "2"}, "evaluate": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\nsteps: {}", "steps: there are none"),
        ("title: x\nsteps: {sing: {}}", "steps: 'sing' is not one of analyze, probe, allocate"),
        ("title: x\nsteps: {allocate: {}, analyze: {}}", "allocate, analyze are out of order; write analyze, allocate"),
        ("title: x\nsteps: {train: {}}", "train reads what allocate writes, and there is no step allocate"),
        ("title: x\nsteps: {allocate: {}, evaluate: {}}", "evaluate reads what train writes"),
        ("title: x\nsteps: {allocate: {}}\nsmall: {train: {}}", "small: 'train' is no step of this recipe"),
        ("title: x\nsteps: {allocate: {}}\nneeds: gold", "needs: Input should be 'experts'"),
        ("title: x\nsteps: {allocate: {a: {b: c}}}", r"steps.allocate.a"),
        ("title: x\nsteps: [allocate]", "steps: Input should be a valid dictionary"),
        ("steps: {allocate: {}}", "title: Field required"),
        ("title: x\nsteps: {allocate: {}}\nmore: 1", "more: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Recipe.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_neither_in_the_library_nor_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"recipe 'alpha': not one of alphalora, .*and no .yaml file"):
        Recipe.load("alpha")
    with pytest.raises(InputError, match="No such file"):
        Recipe.load(str(tmp_path / "gone.yaml"))


def test_changes_name_their_step_or_are_told_to(recipe):
    found = parse_changes(recipe, ["budget=rank 2", "train.max_steps=7", "evaluate.precision=fp32", "epochs="], OFFERS)
    assert found == {
        "allocate": {"budget": "rank 2"},
        "train": {"max-steps": "7", "epochs": ""},
        "evaluate": {"precision": "fp32"},
    }
    assert recipe.with_options(found).steps["train"] == {"max-steps": "7"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget", "write STEP.OPTION=VALUE"),
        ("=3", "write STEP.OPTION=VALUE"),
        ("probe.seed=1", "'probe' is no step of this recipe; it has allocate, train, evaluate"),
        ("precision=fp32", "train and evaluate have this option; write evaluate.precision=fp32"),
        ("samples=4", "no step of this recipe has an option 'samples'"),
    ],
)
def test_a_change_that_fits_no_step_is_refused(recipe, text, message):
    with pytest.raises(InputError, match=message):
        parse_changes(recipe, [text], OFFERS)
