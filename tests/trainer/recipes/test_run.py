"""Runs of recipes: everything checked before the first step, resumed where they stopped, one line for what does not fit."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from planner import Plan
from spectra import InputError, open_checkpoint
from tests import models
from tests.models import save_with_tokenizer
from tests.planner.examples import sensitivity_of
from tests.planner.strategies.test_alphalora import ALPHAS, LLAMA_7B_COUNTS
from trainer.recipes.recipe import Recipe
from trainer.recipes.run import RECORD, RecipeRun, options_of, require_fit, start_over
from trainer.recipes.steps import Place, line

QUICK = "title: quick\nsteps:\n  allocate:\n    strategy: uniform\n    budget: rank 1\n"
QUICK += "  train:\n    max-steps: 2\n    batch-size: 4\n    max-length: 16\n  evaluate:\n"


@pytest.fixture
def quick(tmp_path):
    (tmp_path / "quick.yaml").write_text(QUICK)
    return str(tmp_path / "quick.yaml")


def plan(*arguments):
    return CliRunner().invoke(cli.main, ["run", *map(str, arguments)])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Forty sentences, enough to keep a tenth back."""
    path = models.sentences(tmp_path_factory.mktemp("texts") / "text.jsonl")
    assert len(path.read_text().splitlines()) >= 20
    return path


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory):
    """Wide enough for rank 8 at its smallest matrix."""
    config = models.CONFIGS["llama"](hidden_size=64, intermediate_size=96, num_key_value_heads=4)
    return save_with_tokenizer(config, tmp_path_factory.mktemp("models") / "wide-llama")


@pytest.fixture(scope="module")
def wide_olmoe(tmp_path_factory):
    config = models.CONFIGS["olmoe"](vocab_size=len(models.SPECIAL + models.WORDS), intermediate_size=32)
    return save_with_tokenizer(config, tmp_path_factory.mktemp("models") / "wide-olmoe")


@pytest.mark.training
@pytest.mark.parametrize("name", ["alphalora", "lora-smoe", "sira", "dr-lora", "mola", "uniform", "demo"])
def test_the_small_section_of_every_recipe_ends_with_an_evaluation(name, wide_llama, wide_olmoe, texts, tmp_path):
    model = wide_olmoe if Recipe.load(name).needs == "experts" else wide_llama
    found = plan(name, "--model", model, "--data", texts, "--small", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    steps = [one.step for one in RecipeRun.load(tmp_path / "out" / RECORD).done]
    assert steps == list(Recipe.load(name).steps)
    assert (tmp_path / "out" / "run" / "evaluation.json").is_file()
    for step in steps:
        assert f"$ plan {step} " in found.output


@pytest.mark.training
def test_a_run_that_was_cut_goes_on_after_its_last_whole_step(quick, tiny_llama, texts, tmp_path, monkeypatch):
    from trainer.training import train as training

    arguments = (quick, "--model", tiny_llama, "--data", texts, "-o", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(training, "save_adapters", lambda *_: (_ for _ in ()).throw(InputError("the disk is full")))
        cut = plan(*arguments)
    assert (cut.exit_code, "the disk is full" in cut.output) == (1, True)
    assert [one.step for one in RecipeRun.load(tmp_path / "out" / RECORD).done] == ["allocate"]
    again = plan(*arguments)
    assert again.exit_code == 0, again.output
    assert "allocate is done" in again.output
    assert "--resume" in again.output
    third = plan(*arguments)
    assert third.exit_code == 0
    assert "$ plan" not in third.output


@pytest.mark.training
def test_a_folder_with_another_run_is_refused(quick, tiny_llama, tiny_gpt2, texts, sentences, tmp_path):
    (tmp_path / "small.yaml").write_text(QUICK.partition("  train:")[0])
    given = (tmp_path / "small.yaml", "--data", texts, "-o", tmp_path / "out")
    assert plan(*given, "--model", tiny_llama).exit_code == 0
    before = (tmp_path / "out" / RECORD).read_bytes()
    other = tmp_path / "other.jsonl"
    other.write_text(texts.read_text() + texts.read_text())
    for arguments, message in [
        ((*given, "--model", tiny_gpt2), "holds a run of another model; choose another folder"),
        ((*given, "--model", tiny_llama, "--set", "budget=rank 2"), "allocate was run with other options, plan allocate"),
        (("uniform", *given[1:], "--model", tiny_llama), "holds a run of another recipe"),
        ((given[0], "--data", other, "-o", tmp_path / "out", "--model", tiny_llama), "holds a run of other data"),
    ]:
        found = plan(*arguments)
        assert (found.exit_code, message in found.output) == (1, True), found.output
    assert (tmp_path / "out" / RECORD).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.nothing=1"], "train: nothing: no such option; plan train --help lists them"),
        (["train.epochs=-1", "max-steps="], "train: epochs: Input should be greater than 0"),
        (["train.seed=x"], "train: Invalid value for '--seed'"),
        (["train.output=x"], "train: output: is given by the run itself; leave it out"),
        (["train.shard=yes"], "train: shard: 'yes': is on or off; write true or false"),
        (["train.seed=true"], "train: seed: 'true': takes a value"),
        (["router=nothing"], "train: Invalid value for '--router'"),
        (["train.capacity=2"], "`capacity` is a setting of router sira, not of router topk"),
        (["modules=q_proj,nothing"], "allocate: `modules` 'nothing': no such module"),
    ],
)
def test_every_option_is_checked_before_anything_is_written(quick, tiny_llama, texts, tmp_path, changes, message):
    given = [part for change in changes for part in ("--set", change)]
    found = plan(quick, "--model", tiny_llama, "--data", texts, *given, "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert message in found.output
    assert found.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["[rank 1, rank 2]", "[]"])
def test_a_list_where_one_value_stands_is_refused(tiny_llama, texts, tmp_path, value):
    (tmp_path / "odd.yaml").write_text(QUICK.replace("rank 1", value))
    found = plan(tmp_path / "odd.yaml", "--model", tiny_llama, "--data", texts, "-o", tmp_path / "out")
    assert (found.exit_code, "allocate: budget: takes one value, found a list of" in found.output) == (1, True)


@pytest.mark.parametrize("step", ["max-steps=4", "max-steps="])
def test_a_warm_up_that_is_too_long_is_refused_before_the_first_step(quick, tiny_llama, texts, tmp_path, step):
    given = ("--set", "train.warmup=100", "--set", f"train.{step}", "-o", tmp_path / "out")
    found = plan(quick, "--model", tiny_llama, "--data", texts, *given)
    assert "`warmup` 100: from 1 on a whole number of steps, and this run has" in found.output
    assert not (tmp_path / "out").exists()


def test_no_part_of_the_data_replaces_the_data(quick, tiny_llama, texts, tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    mine = tmp_path / "out" / "data" / "0-train.jsonl"
    mine.write_bytes(texts.read_bytes())
    found = plan(quick, "--model", tiny_llama, "--data", mine, "-o", tmp_path / "out")
    assert (found.exit_code, "would replace" in found.output) == (1, True)
    assert mine.read_bytes() == texts.read_bytes()


@pytest.mark.training
def test_what_means_nothing_to_a_classifier_is_left_out_aloud(minilm, small_corpus, tmp_path):
    train, test = small_corpus
    changes = ("--set", "max-steps=1", "--set", "train.warmup=", "--set", "budget=6 experts")
    found = plan("alphalora", "--model", minilm, "--data", train, "--test", test, "--small", *changes, "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "left out --loss-on, which has no effect on a classifier, whose loss counts labels" in found.output


def test_a_recipe_about_experts_refuses_a_dense_model(tiny_llama, texts, tmp_path):
    found = plan("dr-lora", "--model", tiny_llama, "--data", texts, "-o", tmp_path / "out")
    assert found.output == "Error: dr-lora: is about models with routed experts, and tiny-llama has none\n"
    assert not (tmp_path / "out").exists()


def test_the_models_own_folder_is_no_place_for_a_run(quick, tiny_llama, texts):
    found = plan(quick, "--model", tiny_llama, "--data", texts, "-o", tiny_llama)
    assert "the folder of the model itself" in found.output


def test_too_few_examples_to_keep_a_tenth_back_are_told_so(quick, tiny_llama, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "the file"}\n' * 5)
    found = plan(quick, "--model", tiny_llama, "--data", tmp_path / "few.jsonl", "-o", tmp_path / "out")
    assert "5 examples are too few to keep a tenth for validation" in found.output
    assert not (tmp_path / "out" / RECORD).exists()


@pytest.mark.training
def test_json_alone_is_on_standard_output(tiny_llama, texts, tmp_path):
    (tmp_path / "small.yaml").write_text(QUICK.partition("  train:")[0])
    found = plan(tmp_path / "small.yaml", "--model", tiny_llama, "--data", texts, "--json", "-o", tmp_path / "out")
    assert json.loads(found.stdout)["done"][0]["step"] == "allocate"


def test_modules_and_experts_are_looked_for_in_the_model(tiny_llama):
    recipe = Recipe(title="x", steps={"allocate": {"modules": "attention,down_proj"}})
    require_fit(recipe, "x", open_checkpoint(tiny_llama))


def test_options_that_a_run_gives_itself_are_not_offered():
    offered = options_of(cli.main.commands["train"])
    assert not {"output", "data", "model", "resume", "json", "config", "help"} & set(offered)
    assert {"epochs", "eval-data", "capacity"} <= set(offered)


def test_a_finished_run_is_forgotten_and_an_interrupted_one_is_not(tmp_path):
    recipe = Recipe(title="x", steps={"allocate": {}, "train": {}})
    start_over(tmp_path, recipe)  # nothing there
    from spectra.report import ModelInfo

    record = RecipeRun(title="x", model=ModelInfo(name="m", parameters=1, fingerprint=None), files={})
    (tmp_path / "run").mkdir()
    for done, stays in (["allocate"], True), (["allocate", "train"], False):
        steps = [{"step": step, "arguments": ["plan"]} for step in done]
        RecipeRun.model_validate({**record.model_dump(), "done": steps}).save(tmp_path / RECORD)
        start_over(tmp_path, recipe)
        assert (tmp_path / RECORD).exists() == (tmp_path / "run").exists() == stays


def planned_from(recipe, folder, **options):
    """The plan of a recipe's own allocation step, from inputs that somebody has published."""
    place = Place(folder=folder, model="none", data=(), tests=(), steps=("allocate",))
    _, *arguments = line("allocate", Recipe.load(recipe).steps["allocate"] | options, place)
    given = [part for part in arguments if part not in ("--model", "none")]
    found = CliRunner().invoke(cli.main, ["allocate", *given])
    assert found.exit_code == 0, found.output
    return Plan.load(folder / "plan.json")


def by_layer(plan, layers):
    found = [
        {(len(site.ranks), site.top_k) for site in plan.sites if f".layers.{layer}." in site.name} for layer in range(layers)
    ]
    assert all(len(one) == 1 for one in found)
    return [one.pop() for one in found]


def test_the_recipe_gives_the_expert_counts_of_the_published_alphas_of_llama(tmp_path):
    plan = planned_from("alphalora", tmp_path, spectra=str(ALPHAS))
    assert [count for count, _ in by_layer(plan, 32)] == LLAMA_7B_COUNTS
    assert plan.budget.spent == 160


# Shipped in AlphaLoRA's run_all.sh for Mistral-7B-v0.1, whose weights are not at hand.
MISTRAL = [1, 3, 5, 4, 4, 5, 4, 4, 3, 3, 2, 2, 2, 2, 3, 4, 9, 4, 8, 7, 8, 7, 8, 7, 9, 8, 6, 10, 6, 7, 3, 2]


def test_the_recipe_can_say_the_vector_that_alphaloras_authors_ship(tmp_path):
    # Alphas whose shares are exactly these counts: the least that gives them, beyond our usual eight a module.
    rows = [f"model.layers.{layer}.mlp.up_proj,64,32,{count ** (1 / 2.5)!r}" for layer, count in enumerate(MISTRAL)]
    (tmp_path / "alphas.csv").write_text("\n".join(["name,rows,cols,alpha", *rows]) + "\n")
    plan = planned_from("alphalora", tmp_path, spectra=str(tmp_path / "alphas.csv"))
    assert by_layer(plan, 32) == [(count, min(2, count)) for count in MISTRAL]


def test_the_recipe_of_lora_smoe_counts_tasks_of_attention_alone(tmp_path):
    names = [f"model.layers.{layer}.self_attn.{part}" for layer in range(5) for part in ("q_proj", "v_proj")]
    names += [f"model.layers.{layer}.mlp.up_proj" for layer in range(5)]
    rng = np.random.default_rng(0)
    gradients = {name: rng.random(8).tolist() for name in names}
    report = sensitivity_of(gradients, names=tuple("abcdefgh"))
    report.save(tmp_path / "sensitivity.json")
    plan = planned_from("lora-smoe", tmp_path, **{"sensitivity": str(tmp_path / "sensitivity.json"), "expert-rank": "1"})
    for part in ("q_proj", "v_proj"):
        group = np.array([gradients[name] for name in names if name.endswith(part)])
        counts = (group > np.percentile(group, 40, axis=0)).sum(1).tolist()
        assert [len(site.ranks) for site in plan.sites if site.name.endswith(part)] == counts
    assert all(not site.ranks for site in plan.sites if ".mlp." in site.name)
