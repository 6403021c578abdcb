"""The demo: its texts, its model and its steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from planner import Plan
from spectra import InputError
from tests.trainer.examples import read_rows as rows
from trainer import Evaluation
from trainer.demo import classifier as demo
from trainer.demo import docstrings
from trainer.recipes.recipe import Recipe
from trainer.recipes.steps import Place, line
from trainer.run_folder import EVALUATION


def test_no_module_and_no_text_stands_in_both_files(corpus):
    train, test = (rows(path) for path in corpus)
    assert not {row["module"] for row in train} & {row["module"] for row in test}
    texts = [row["text"] for row in train + test]
    assert len(set(texts)) == len(texts)


def test_every_chapter_is_in_both_files(corpus):
    train, test = (rows(path) for path in corpus)
    there = {chapter for chapter, names in demo.CHAPTERS.items() if any(any(docstrings.sources(name)) for name in names.split())}
    assert len(there) >= len(demo.CHAPTERS) - 1  # a distribution may leave tkinter out
    assert {row["label"] for row in train} == {row["label"] for row in test} == there
    assert len(train) > 2000
    assert 0.15 < len(test) / (len(train) + len(test)) < 0.4


@pytest.mark.training
def test_the_corpus_is_the_same_in_every_process(corpus, tmp_path):
    script = f"from trainer.demo.classifier import write_corpus; write_corpus({str(tmp_path)!r})"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(cli.__file__).parent)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert [(tmp_path / path.name).read_bytes() for path in corpus] == [path.read_bytes() for path in corpus]


def test_a_python_without_sources_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(docstrings, "standard_library", lambda: tmp_path)
    with pytest.raises(InputError, match="too few docstrings; the sources of the standard library are not installed"):
        demo.write_corpus(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_linked_under_a_readable_name(tmp_path):
    for _ in range(2):  # a second demo replaces the link
        link = demo.link_model(tmp_path)
    assert link.name == "all-MiniLM-L6-v2"
    assert (link / "model.safetensors").is_file()


def test_a_missing_model_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'loraplan\[demo\]'"):
        demo.link_model(tmp_path)


def test_the_baseline_is_the_plan_without_adapters(tmp_path, uniform_plan):
    uniform_plan.save(tmp_path / "plan.json")
    (before,) = (step.before for step in demo.afterwards(tmp_path) if step.before)
    before()
    assert Plan.load(tmp_path / "head-only.json").to_json() == uniform_plan.without_adapters().to_json()


def test_run_and_baseline_are_trained_and_evaluated_alike(tmp_path):
    recipe = Recipe.load(demo.RECIPE)
    names = {"model": str(tmp_path / demo.MODEL_NAME), "data": (str(tmp_path / "train.jsonl"),)}
    place = Place(folder=tmp_path, tests=(str(tmp_path / "test.jsonl"),), steps=tuple(recipe.steps), **names)
    of_recipe = [line(step, recipe.steps[step], place) for step in ("train", "evaluate")]
    differing = [
        (Path(one).name, Path(other).name)
        for run, head in zip(of_recipe, [step.arguments for step in demo.afterwards(tmp_path)], strict=True)
        for one, other in zip(run, head, strict=True)
        if one != other
    ]
    assert differing == [("plan.json", "head-only.json"), ("run", "head-only"), ("run", "head-only")]


def test_preparing_starts_a_finished_demo_over_and_lets_an_interrupted_one_go_on(tmp_path, monkeypatch):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    monkeypatch.setattr(demo, "write_corpus", lambda folder: (train, test))
    for name in ("run", "head-only", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    inputs = demo.prepare(tmp_path)
    assert (inputs.train, inputs.test) == (train, test)
    assert sorted(path.name for path in tmp_path.iterdir()) == [demo.MODEL_NAME, "mine", "run"]


def test_the_summary_shows_the_plan_and_both_runs(tmp_path, uniform_plan):
    uniform_plan.save(tmp_path / "plan.json")
    for name, accuracy in (("run", 0.75), ("head-only", 0.5)):
        scores = {"accuracy": accuracy, "loss": 1.0}
        found = Evaluation(examples=4, truncated=0, trained=scores, untrained={}, majority={"accuracy": 0.25, "loss": 2.0})
        found.save(tmp_path / name / EVALUATION)
    planned, summary, reached, table, where = demo.summary(tmp_path)
    assert (planned.strip(), summary.splitlines()[0][:14]) == ("Planned", "36 of 36 sites")
    assert reached.strip().startswith("Reached")
    assert list(table.columns[0].cells) == ["fine-tuned", "same head, frozen features", "majority class"]
    assert list(table.columns[1].cells) == ["75.0%", "50.0%", "25.0%"]
    assert str(tmp_path) in where
