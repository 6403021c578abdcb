"""The command line, in process: exit codes, what is printed, what is written."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli

ALPHAS = Path(__file__).parent / "data" / "llama-7b-alpha-peak.csv"
QUICK = ["--max-steps", "4", "--batch-size", "8", "--max-length", "32"]


@pytest.fixture
def run():
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture(scope="module")
def workplace(minilm, small_corpus, spectra_report, tmp_path_factory):
    """A folder with a model, data and the reports made so far."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "model").symlink_to(minilm)
    for path in small_corpus:
        shutil.copy(path, folder)
    spectra_report.save(folder / "spectra.json")
    return folder


@pytest.fixture
def here(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


def test_analyze_prints_a_table_and_writes_a_report(run, here):
    output = run("analyze", "model", "-o", "again.json").output
    assert "alpha by layer and projection" in output
    assert "40 matrices analysed, 64 tensors skipped" in output
    assert (here / "again.json").read_bytes() != b""
    printed = json.loads(run("analyze", "model", "-o", "again.json", "--json").stdout)
    assert printed == json.loads((here / "again.json").read_text())


def test_the_whole_path(run, here):
    probed = run(
        "probe", "model", "--data", "train.jsonl", "--samples", 16, "--max-length", 32, "--rehearse", 2, "--batch-size", 8
    )
    assert re.search(
        r"train: a rehearsal of 2 steps took -?[\d.]+ \+- [\d.]+ nats off the loss of 5 held-out examples", probed.output
    )
    plan = ["--spectra", "spectra.json", "--sensitivity", "sensitivity.json", "--budget", "1%", "--max-experts", 8]
    shown = run("allocate", *plan).output
    assert re.search(r"budget: [\d,]+ of 227,132 parameters spent", shown)
    assert "fits model: 36 sites" in run("check", "plan.json", "model").output
    trained = run("train", "plan.json", "--model", "model", "--data", "train.jsonl", *QUICK).output
    assert re.search(r"trained [\d,]+ adapter and 1,540 head parameters for 4 steps on 48 texts, \d+ of them cut", trained)
    scores = run("evaluate", "run", "--data", "test.jsonl").output
    assert all(row in scores for row in ("fine-tuned", "untrained", "majority class"))
    assert json.loads((here / "run" / "evaluation.json").read_text())["examples"] == 32
    drawn = run("plot", "spectra.json", "plan.json", "run", "-o", "plots").output.split()
    assert len(drawn) == 12
    for path in drawn:
        content = (here / path).read_bytes()
        assert content.startswith(b"\x89PNG" if path.endswith("png") else b"<?xml")
        assert len(content) > 5000


def test_probe_rehearses_language_models_and_classifiers_only_if_asked(run, here, tiny_llama, sentences):
    few = ["--samples", 4, "--max-length", 16, "--batch-size", 4]
    assert "train: no rehearsal" in run("probe", "model", "--data", "train.jsonl", *few, "-o", "labels.json").output
    run("probe", tiny_llama, "--data", sentences, *few, "-o", "texts.json")
    labels, texts = (json.loads((here / name).read_text())["tasks"][0]["rehearsal"] for name in ("labels.json", "texts.json"))
    assert labels is None
    assert texts["steps"] == 30


def test_show_json_has_sites_and_budget(run, here, uniform_plan):
    uniform_plan.save("uniform.json")
    data = json.loads(run("show", "uniform.json", "--json").stdout)
    assert data["sites"][0].keys() >= {"name", "ranks", "top_k"}
    assert data["sites"][0]["ranks"] == [1, 1]
    assert data["budget"]["cap"] == 150_000
    assert data["budget"]["spent"] == uniform_plan.parameters
    assert "36 of 36 sites adapted, 36 of them as mixtures" in run("show", "uniform.json").output


def test_people_bring_their_own_alphas(run, here):
    arguments = ["--spectra", ALPHAS, "--strategy", "alphalora", "--budget", "160 experts", "-o", "llama.json", "--json"]
    data = json.loads(run("allocate", *arguments).stdout)
    counts = {int(site["name"].split(".")[2]): len(site["ranks"]) for site in data["sites"]}
    assert len(counts) == 32
    assert sum(counts.values()) == 160


def test_training_resumes(run, here, uniform_plan):
    uniform_plan.save("uniform.json")
    arguments = ["train", "uniform.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "resumed"]
    run(*arguments)
    assert "already holds a run; add --resume" in run(*arguments, code=1).output
    run(*arguments, "--resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "/no/such/model"], "/no/such/model: no such folder"),
        (["analyze", "empty"], "empty: no weights"),
        (["analyze", "corrupt"], "model.safetensors: not a readable safetensors file"),
        (["probe", "model", "--data", "nothing.jsonl"], "nothing.jsonl: empty file, no examples"),
        (["allocate", "--model", "model", "--strategy", "uniform", "--budget", "100"], "too small for one rank"),
        (["allocate", "--model", "model", "--strategy", "uniform", "--budget", "a lot"], "budget 'a lot' cannot be read"),
        (["allocate", "--strategy", "uniform", "--budget", "1%"], "nothing to allocate from"),
        (["show", "model"], "model: Is a directory"),
        (["show", "spectra.json"], "expected a 'plan' file, found kind 'spectra'"),
        (["train", "other.json", "--model", "model", "--data", "train.jsonl"], "made for another model"),
        (["train", "ghost.json", "--model", "model", "--data", "train.jsonl"], "site 'encoder.layer.0.ghost': no such module"),
        (["train", "uniform.json", "--model", "model", "--data", "train.jsonl", "--batch-size", "0"], "batch_size: .*got 0"),
        (["evaluate", "model", "--data", "test.jsonl"], "model: not a finished run"),
        (["plot", "train.jsonl"], "train.jsonl:2: not JSON"),
        (["plot", "model/config.json"], "a file of kind None has no figures"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(run, here, uniform_plan, tiny_llama, arguments, message):
    import planner
    import spectra

    uniform_plan.save("uniform.json")
    other = planner.allocate(budget="4000", strategy="uniform", model=spectra.open_checkpoint(tiny_llama))
    other.save("other.json")
    first = uniform_plan.sites[0].model_copy(update={"name": "encoder.layer.0.ghost"})
    uniform_plan.model_copy(update={"sites": (first, *uniform_plan.sites[1:])}).save("ghost.json")
    for folder in ("empty", "corrupt"):
        (here / folder).mkdir(exist_ok=True)
    (here / "corrupt" / "model.safetensors").write_bytes(b"\xff" * 100)
    (here / "nothing.jsonl").touch()
    result = run(*arguments, *(["-o", "written"] if arguments[0] not in ("show",) else []), code=1)
    assert re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (here / "written").exists()


def test_check_lists_every_mismatch(run, here, uniform_plan, tiny_llama):
    uniform_plan.save("uniform.json")
    result = run("check", "uniform.json", tiny_llama, code=1)
    assert "none of its 36 sites" in result.stderr
    assert result.stderr.strip().endswith("2 mismatches")


def test_a_label_unknown_to_the_run(run, here, uniform_plan):
    uniform_plan.save("uniform.json")
    run("train", "uniform.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "labels")
    (here / "strange.jsonl").write_text('{"text": "x", "label": "cooking"}\n')
    message = run("evaluate", "labels", "--data", "strange.jsonl", code=1).stderr
    assert "strange.jsonl: row 1: label 'cooking' is unknown to the run" in message


def test_ctrl_c_is_exit_130(run, here, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectra.analyze", interrupted)
    result = run("analyze", "model", "-o", "never.json", code=130)
    assert "Interrupted" in result.stderr
    assert not (here / "never.json").exists()


def test_usage_errors_are_exit_2(run):
    assert "Missing option '--budget'" in run("allocate", code=2).stderr
    assert "No such command 'unknown'" in run("unknown", code=2).stderr


def test_training_options_come_from_a_file_and_the_command_line_wins(run, here, uniform_plan):
    uniform_plan.save("uniform.json")
    (here / "train.yaml").write_text(
        "model: model\ndata: [train.jsonl]\nmax_steps: 2\nbatch-size: 8\nmax-length: 16\nlearning_rate: 0.1\nrouter: sira\n"
    )
    run("train", "uniform.json", "--config", "train.yaml", "--learning-rate", "0.001", "-o", "from-file")
    settings = json.loads((here / "from-file" / "run.json").read_text())["settings"]
    assert (settings["max_steps"], settings["router"], settings["learning_rate"]) == (2, "sira", 0.001)
    (here / "bad.yaml").write_text("rooter: sira\n")
    assert "bad.yaml: unknown option 'rooter'" in run("train", "uniform.json", "--config", "bad.yaml", code=1).stderr
    (here / "bad.yaml").write_text("- 1\n")
    assert "bad.yaml: not a mapping" in run("train", "uniform.json", "--config", "bad.yaml", code=1).stderr


def test_merging_and_exporting(run, here):
    run("allocate", "--model", "model", "--strategy", "uniform", "--budget", "rank 1", "--max-experts", 1, "-o", "lora.json")
    assert json.loads(run("export", "lora.json", "--format", "peft").stdout)["r"] == 1
    assert "wrote lora.csv" in run("export", "lora.json", "--format", "csv", "-o", "lora.csv").output
    assert "not one of peft, csv" in run("export", "lora.json", "--format", "xml", code=1).stderr
    run("train", "lora.json", "--model", "model", "--data", "train.jsonl", *QUICK, "-o", "lora")
    assert "wrote merged" in run("merge", "lora", "-o", "merged").output
    assert (here / "merged" / "model.safetensors").is_file()
    assert "the two plans give every site the same" in run("show", "lora.json", "lora.json").output


def test_the_options_of_every_command():
    """Frozen: an option is a promise. Change this list on purpose only."""
    options = {
        name: sorted(option for parameter in command.params for option in parameter.opts if option.startswith("--"))
        for name, command in cli.main.commands.items()
    }
    training = ["--accumulation", "--alpha", "--balance-loss", "--base-precision", "--batch-size", "--capacity",
                "--dropout", "--epochs", "--evaluations", "--expert-dropout", "--gradient-checkpointing", "--grow",
                "--init", "--learning-rate", "--loss-on", "--max-length", "--max-steps", "--packing", "--patience",
                "--precision", "--report-to", "--router", "--saliency", "--schedule", "--seed", "--shard", "--warmup",
                "--weight-decay", "--z-loss"]  # fmt: skip
    assert options == {
        "allocate": ["--beta", "--budget", "--depth", "--estimator", "--expert-rank", "--granularity", "--grouping", "--json",
                     "--max-experts", "--max-rank", "--min-rank", "--model", "--output", "--parity", "--rank-multiple", "--seed",
                     "--sensitivity", "--shape", "--spectra", "--statistic", "--strategy", "--top-k"],
        "analyze": ["--bootstrap", "--compare", "--csv", "--device", "--estimator", "--goodness", "--json", "--keep-eigenvalues",
                    "--output", "--precision", "--seed", "--subsamples"],
        "check": [],
        "compare": sorted(
            {*training, "--data", "--json", "--lr-sweep", "--model", "--no-controls", "--output", "--processes", "--seeds"}
            | {"--test"} - {"--seed", "--evaluations", "--patience"}
        ),
        "demo": ["--output"],
        "evaluate": ["--data", "--generate", "--json", "--model", "--output"],
        "merge": ["--model", "--output"],
        "plot": ["--output"],
        "export": ["--format", "--output"],
        "probe": ["--batch-size", "--data", "--device", "--gradient-checkpointing", "--json", "--learning-rate", "--max-length",
                  "--output", "--rehearse", "--samples", "--seed"],
        "report": ["--output"],
        "show": ["--json"],
        "train": sorted([*training, "--config", "--data", "--eval-data", "--json", "--model", "--output", "--resume",
                         "--weights"]),
    }  # fmt: skip


@pytest.mark.slow
def test_the_demo(run, tmp_path):
    output = run("demo", "-o", tmp_path / "demo").output
    reached = {name: float(value) for name, value in re.findall(r"^  (.+?) +([\d.]+)%", output.partition("Reached")[2], re.M)}
    assert reached["fine-tuned"] > reached["same head, frozen features"] + 10
    assert reached["fine-tuned"] > reached["majority class"] + 20
