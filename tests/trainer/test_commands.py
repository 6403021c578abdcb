"""`plan probe`, `train`, `evaluate`, `merge`, `compare`, `show`, `plot`, `report`."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import pytest

from planner import Plan

QUICK = ["--max-steps", "4", "--batch-size", "8", "--max-length", "32"]


@pytest.mark.training
def test_the_whole_path(plan_command, here):
    probed = plan_command(
        "probe", "model", "--data", "train.jsonl", "--samples", 16, "--max-length", 32, "--trial-steps", 2, "--batch-size", 8
    )
    assert re.search(
        r"train: a trial run of 2 steps took -?[\d.]+ \+- [\d.]+ nats off the loss of 5 held-out examples", probed.output
    )
    plan = ["--spectra", "spectra.json", "--sensitivity", "sensitivity.json", "--budget", "1%", "--max-experts", 8]
    shown = plan_command("allocate", *plan).output
    assert re.search(r"budget: [\d,]+ of 227,132 parameters spent", shown)
    assert "fits model: 36 sites" in plan_command("check", "plan.json", "model").output
    trained = plan_command("train", "plan.json", "--model", "model", "--data", "train.jsonl", *QUICK).output
    assert "adapted 36 modules in 6 layers" in trained
    assert re.search(r"trained [\d,]+ adapter and 1,540 head parameters for 4 steps on 48 texts, \d+ of them cut", trained)
    scores = plan_command("evaluate", "run", "--data", "test.jsonl").output
    assert all(row in scores for row in ("fine-tuned", "untrained", "majority class"))
    assert json.loads((here / "run" / "evaluation.json").read_text())["examples"] == 32
    assert "fine-tuned" in plan_command("show", "run").output
    drawn = plan_command("plot", "spectra.json", "plan.json", "run", "-o", "plots").output.split()
    names = [
        "spectra-alpha",
        "spectra-heatmap",
        "spectra-density",
        "plan-allocation",
        "plan-evidence",
        "run-training",
        "run-load",
    ]
    assert drawn == [f"plots/{name}.{ending}" for name in names for ending in ("png", "svg")]
    for path in drawn:
        if path.endswith("svg"):
            assert ET.parse(here / path).getroot().tag.endswith("svg")
    assert "wrote report.html" in plan_command("report", "run", "spectra.json").output
    page = (here / "report.html").read_text()
    assert [title in page for title in ("Run run", "Plan run", "Spectra spectra")] == [True] * 3


@pytest.mark.training
def test_probe_makes_a_trial_run_for_language_models_and_for_classifiers_only_if_asked(plan_command, here, tiny_llama, sentences):
    few = ["--samples", 4, "--max-length", 16, "--batch-size", 4]
    said = plan_command("probe", "model", "--data", "train.jsonl", *few, "-o", "labels.json").output
    assert "train: no trial run" in said
    plan_command("probe", tiny_llama, "--data", sentences, *few, "-o", "texts.json")
    labels, texts = (json.loads((here / name).read_text())["tasks"][0]["trial_run"] for name in ("labels.json", "texts.json"))
    assert labels is None
    assert texts["steps"] == 30


@pytest.mark.training
def test_training_resumes(plan_command, here):
    arguments = ["train", "uniform.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "resumed"]
    first = json.loads(plan_command(*arguments, "--json").stdout)
    assert "already holds a run; add --resume" in plan_command(*arguments, code=1).output
    again = json.loads(plan_command(*arguments, "--resume", "--json").stdout)
    assert (again["steps"], again["curve"]) == (first["steps"], first["curve"])


@pytest.mark.training
def test_a_label_unknown_to_the_run(plan_command, here):
    plan_command("train", "uniform.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "labels")
    (here / "strange.jsonl").write_text('{"text": "x", "label": "cooking"}\n')
    message = plan_command("evaluate", "labels", "--data", "strange.jsonl", code=1).stderr
    assert "strange.jsonl: row 1: label 'cooking' is unknown to the run" in message


@pytest.mark.training
def test_training_options_come_from_a_file_and_the_command_line_wins(plan_command, here):
    (here / "train.yaml").write_text(
        "model: model\ndata: [train.jsonl]\nmax_steps: 2\nbatch-size: 8\nmax-length: 16\nlearning_rate: 0.1\nrouter: sira\n"
        "capacity: 2.0\n"
    )
    plan_command("train", "uniform.json", "--config", "train.yaml", "--learning-rate", "0.001", "-o", "from-file")
    settings = json.loads((here / "from-file" / "run.json").read_text())["settings"]
    assert (settings["max_steps"], settings["learning_rate"]) == (2, 0.001)
    assert settings["router"] == {"name": "sira", "settings": {"capacity": 2.0, "expert_dropout": 0.1, "renormalise": False}}


def test_a_file_of_options_that_cannot_be_used(plan_command, here):
    (here / "bad.yaml").write_text("rooter: sira\n")
    assert "bad.yaml: unknown option 'rooter'" in plan_command("train", "uniform.json", "--config", "bad.yaml", code=1).stderr
    (here / "bad.yaml").write_text("- 1\n")
    assert "bad.yaml: not a mapping" in plan_command("train", "uniform.json", "--config", "bad.yaml", code=1).stderr


@pytest.mark.training
def test_merging(plan_command, here):
    plan_command("allocate", "--model", "model", "--strategy", "uniform", "--budget", "rank 1", "-o", "lora.json")
    plan_command("train", "lora.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "lora")
    assert "wrote merged" in plan_command("merge", "lora", "-o", "merged").output
    assert (here / "merged" / "model.safetensors").is_file()


@pytest.mark.training
def test_comparing(plan_command, here, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # or a run takes all cores, by which small products lose
    plan_command(
        "allocate", "--model", "model", "--strategy", "random", "--budget", "rank 1", "--max-experts", 1, "-o", "mine.json"
    )
    arguments = ["mine.json", "--model", "model", "--data", "train.jsonl", "--test", "test.jsonl", "--seeds", 2, *QUICK]
    arguments += ["--lr-sweep", 1e-3, "--binding", "note", "--arm", "loud=mine.json,alpha=16"]
    output = plan_command("compare", *arguments, "--processes", 1, "-o", "study").output
    assert "difference from uniform LoRA" in output
    assert re.search("The budget (binds|does not bind): uniform LoRA of|Whether the budget binds cannot be told: ", output)
    report = json.loads((here / "study" / "study.json").read_text())
    arms = ["mine", "loud", "uniform-lora", "uniform-mixture", "random", "head-only"]
    assert [one["name"] for one in report["arms"] if not one["name"].startswith("uniform-lora-")] == arms
    assert "mine" in plan_command("show", "study").output


def test_show_json_has_sites_and_budget(plan_command, here, uniform_plan):
    data = json.loads(plan_command("show", "uniform.json", "--json").stdout)
    assert data["sites"][0].keys() >= {"name", "ranks", "top_k"}
    assert data["sites"][0]["ranks"] == [1, 1]
    assert data["budget"]["limit"] == 150_000
    assert data["budget"]["spent"] == uniform_plan.parameters
    assert "36 of 36 sites adapted, 36 of them as mixtures" in plan_command("show", "uniform.json").output


def test_show_prints_any_document_and_where_two_plans_differ(plan_command, here, uniform_plan):
    assert "alpha by layer and projection" in plan_command("show", "spectra.json").output
    assert "the two plans give every site the same" in plan_command("show", "uniform.json", "uniform.json").output
    first = uniform_plan.sites[0].model_copy(update={"ranks": (), "top_k": 0})
    sites = (first, *uniform_plan.sites[1:])
    size = sum(site.parameters for site in sites)
    budget = uniform_plan.budget.model_copy(update={"spent": size, "parameters": size})
    uniform_plan.model_copy(update={"sites": sites, "budget": budget}).save(here / "less.json")
    assert Plan.load(here / "less.json").parameters == size
    assert re.search(r"1 x|1 x 2|2 x 1 +- +-2", plan_command("show", "uniform.json", "less.json").output)
    assert "give one" in plan_command("show", "uniform.json", "less.json", "--json", code=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "own", "-o", "own/model.safetensors"),
        ("analyze", "own", "-o", "own/config.json"),
        ("analyze", "own", "-o", "a.json", "--csv", "a.json"),
        ("analyze", "own", "-o", "a.json", "--keep-eigenvalues", "./a.json"),
        ("analyze", "own", "-o", "link.json"),
        ("probe", "own", "--data", "train.jsonl", "-o", "train.jsonl"),
        ("allocate", "--spectra", "spectra.json", "--budget", "1%", "-o", "spectra.json"),
        ("allocate", "--model", "own", "--strategy", "uniform", "--budget", "uniform.json", "-o", "uniform.json"),
        ("export", "uniform.json", "--format", "yaml", "-o", "uniform.json"),
        ("report", "uniform.json", "-o", "uniform.json"),
    ],
)
def test_no_output_replaces_an_input_or_another_output(here, tmp_path, monkeypatch, plan_command, arguments):
    shutil.copytree(here / "model", tmp_path / "own")
    for name in ("train.jsonl", "spectra.json", "uniform.json"):
        shutil.copy(here / name, tmp_path)
    (tmp_path / "link.json").symlink_to("own/tokenizer.json")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    message = plan_command(*arguments, code=1).stderr
    assert "would replace" in message or "is also the file of" in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_models_own_folder_is_no_place_for_a_run(here, tmp_path, plan_command):
    shutil.copytree(here / "model", tmp_path / "own")
    arguments = ("uniform.json", "--model", tmp_path / "own", "--data", "train.jsonl", "--max-steps", 1, "-o", tmp_path / "own")
    assert "the folder of the model itself; choose another for the run" in plan_command("train", *arguments, code=1).stderr
    assert not (tmp_path / "own" / "adapter_config.json").exists()


@pytest.mark.parametrize("name", ["plan[v2].json", "[/x].json", "a[bold].json"])
def test_names_with_brackets_are_names(here, tmp_path, plan_command, name):
    made = plan_command("allocate", "--model", "model", "--strategy", "uniform", "--budget", "rank 1", "-o", tmp_path / name)
    assert name in "".join(made.stdout.split("\n"))
    assert (tmp_path / name).is_file()
