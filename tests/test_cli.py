"""The `plan` command itself: its sections, its exit codes, its options. Each command is tested beside its package."""

import re

import click
import pytest

import cli
from spectra import InputError


def test_the_help_lists_the_pipeline_in_order(plan_command):
    shown = plan_command("--help").output
    headings = re.findall(r"^(\w+):$", shown, re.M)
    assert headings == ["Options", *cli.SECTIONS]
    commands = [command.name for section in cli.SECTIONS.values() for command in section]
    assert [shown.index(f"\n  {name} ") for name in commands] == sorted(shown.index(f"\n  {name} ") for name in commands)
    assert sorted(commands) == sorted(cli.main.commands)


def test_every_command_shows_an_example_that_it_understands():
    for command in cli.main.commands.values():
        if command.name == "demo":  # nothing to be given
            continue
        example = next(line.strip() for line in command.help.splitlines() if line.strip().startswith("Example: "))
        program, name, *_ = example.removeprefix("Example: ").split()
        assert (program, name) == ("plan", command.name)


def test_no_help_text_leans_on_its_neighbours():
    """A sentence that begins with "Of" or "That" has its subject elsewhere."""
    for command in cli.main.commands.values():
        for parameter in command.get_params(click.Context(command)):
            assert not re.match(r"(Of|That|Whose|Who|What) ", getattr(parameter, "help", None) or ""), parameter.help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "/no/such/model"], "/no/such/model: no such folder"),
        (["analyze", "empty"], "empty: no weights"),
        (["analyze", "corrupt"], "model.safetensors: not a readable safetensors file"),
        (["probe", "model", "--data", "nothing.jsonl"], "nothing.jsonl: empty file, no examples"),
        (["allocate", "--model", "model", "--strategy", "uniform", "--budget", "100"], "too small for one rank"),
        (["allocate", "--model", "model", "--strategy", "uniform", "--budget", "a lot"], "budget 'a lot' cannot be read"),
        (["allocate", "--strategy", "uniform", "--budget", "1%"], "nothing to allocate from: give --spectra, --sensitivity or"),
        (["show", "model"], "model/run.json: No such file"),
        (["show", "model/config.json"], "a file of kind None cannot be shown"),
        (["check", "spectra.json", "model"], "expected a 'plan' file, found kind 'spectra'"),
        (["train", "other.json", "--model", "model", "--data", "train.jsonl"], "made for another model"),
        (["train", "ghost.json", "--model", "model", "--data", "train.jsonl"], "site 'encoder.layer.0.ghost': no such module"),
        (["train", "uniform.json", "--model", "model", "--data", "train.jsonl", "--batch-size", "0"], "batch_size: .*got 0"),
        (["train", "uniform.json", "--model", "model", "--data", "train.jsonl", "--patience", "2"], "--patience 2 .*--eval-data"),
        (["train", "uniform.json", "--model", "model", "--data", "train.jsonl", "--capacity", "2"],
         "--capacity is a setting of router sira, not of router topk"),
        (["evaluate", "model", "--data", "test.jsonl"], "model: not a finished run"),
        (["plot", "train.jsonl"], "train.jsonl:2: not JSON"),
        (["plot", "model/config.json"], "a file of kind None cannot be shown"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(plan_command, here, uniform_plan, tiny_llama, arguments, message):
    import planner
    import spectra

    settings = planner.AllocationSettings(strategy="uniform")
    planner.allocate("4000", settings, model=spectra.open_checkpoint(tiny_llama)).save("other.json")
    first = uniform_plan.sites[0].model_copy(update={"name": "encoder.layer.0.ghost"})
    uniform_plan.model_copy(update={"sites": (first, *uniform_plan.sites[1:])}).save("ghost.json")
    for folder in ("empty", "corrupt"):
        (here / folder).mkdir(exist_ok=True)
    (here / "corrupt" / "model.safetensors").write_bytes(b"\xff" * 100)
    (here / "nothing.jsonl").touch()
    result = plan_command(*arguments, *(["-o", "written"] if arguments[0] not in ("show", "check") else []), code=1)
    assert re.search(message, result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (here / "written").exists()


def test_ctrl_c_is_exit_130(plan_command, here, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectra.analyze", interrupted)
    result = plan_command("analyze", "model", "-o", "never.json", code=130)
    assert "Interrupted" in result.stderr
    assert not (here / "never.json").exists()


def test_usage_errors_are_exit_2(plan_command):
    assert "Missing option '--budget'" in plan_command("allocate", code=2).stderr
    assert "No such command 'unknown'" in plan_command("unknown", code=2).stderr
    wrong = plan_command("allocate", "--strategy", "best", "--budget", "1%", code=2).stderr
    assert "'best' is not one of uniform, random" in wrong


def test_an_error_of_the_system_names_its_file(plan_command, here, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device", "somewhere.json")

    monkeypatch.setattr("spectra.analyze", full)
    assert "somewhere.json: No space left on device" in plan_command("analyze", "model", code=1).stderr


def test_a_library_says_settings_and_the_command_line_says_options(plan_command, here):
    import planner

    with pytest.raises(InputError, match="give `spectra`, `sensitivity` or `model`"):
        planner.allocate("1%", planner.AllocationSettings(strategy="uniform"))
    shown = plan_command("allocate", "--strategy", "uniform", "--budget", "1%", code=1).stderr
    assert "give --spectra, --sensitivity or --model" in shown


def test_the_options_of_every_command():
    """Frozen: an option is a promise. Change this list on purpose only."""
    options = {
        name: sorted(
            option
            for parameter in command.get_params(click.Context(command))
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        )
        for name, command in cli.main.commands.items()
    }
    growth = [
        "--growth-events",
        "--growth-handout",
        "--growth-most",
        "--growth-penalty",
        "--growth-per-event",
        "--growth-start",
        "--growth-tokens",
    ]
    rows = ["--chat-template", "--columns", "--join", "--loss-on", "--max-length", "--role-map", "--template-date",
            "--template-option", "--turns"]  # fmt: skip
    training = [*rows, "--accumulation", "--alpha", "--balance-loss", "--batch-size", "--capacity", *growth,
                "--growth-decay", "--growth-every", "--growth-reset", "--renormalise",
                "--dropout", "--epochs", "--evaluations", "--expert-dropout", "--gradient-checkpointing", "--grow",
                "--group-by-length", "--growth-share", "--train-router",
                "--init", "--learning-rate", "--lr-ratio", "--max-steps", "--packing", "--patience",
                "--precision", "--report-to", "--router", "--saliency", "--schedule", "--seed", "--shard", "--warmup",
                "--weight-decay", "--z-loss"]  # fmt: skip
    assert options == {
        "allocate": ["--beta", "--budget", "--depth", "--estimator", "--expert-rank", "--granularity", "--grouping", *growth,
                     "--hot-share", "--incomplete", "--json", "--max-experts", "--max-rank", "--min-rank", "--model", "--modules",
                     "--output",
                     "--parity", "--rank-multiple", "--seed", "--sensitivity", "--shape", "--spectra", "--statistic",
                     "--strategy", "--top-k", "--top-percent"],
        "analyze": ["--bootstrap", "--compare", "--csv", "--device", "--estimator", "--goodness", "--json", "--keep-eigenvalues",
                    "--modules", "--output", "--precision", "--seed", "--subsamples"],
        "check": [],
        "compare": sorted(
            {*training, "--arm", "--binding", "--data", "--json", "--lr-sweep", "--model", "--no-baselines", "--output",
             "--processes", "--seeds",
             "--test"}
            - {"--seed", "--evaluations", "--patience", "--shard"}
        ),
        "data": sorted([*rows, "--eval-data", "--html", "--json", "--model"]),
        "demo": ["--classifier", "--output"],
        "evaluate": ["--data", "--generate", "--json", "--model", "--output", "--precision"],
        "merge": ["--model", "--output"],
        "plot": ["--output"],
        "export": ["--format", "--output"],
        "run": ["--data", "--json", "--model", "--output", "--set", "--small", "--test"],
        "probe": sorted(["--batch-size", "--data", "--device", "--effective-rank", "--gradient-checkpointing", "--json",
                         "--learning-rate",
                         *rows, "--modules", "--output", "--precision", "--samples", "--seed", "--trial-steps"]),
        "report": ["--output"],
        "show": ["--json"],
        "train": sorted([*training, "--config", "--data", "--eval-data", "--json", "--model", "--output", "--resume",
                         "--weights"]),
    }  # fmt: skip


def test_a_study_offers_no_option_without_effect():
    offered = [parameter.name for parameter in cli.main.commands["compare"].get_params(click.Context(cli.main))]
    assert not {"seed", "evaluations", "patience"} & set(offered)


@pytest.mark.slow
def test_the_demo(plan_command, tmp_path):
    output = plan_command("demo", "-o", tmp_path / "demo").output
    reached = {name: float(value) for name, value in re.findall(r"^  (.+?) +([\d.]+)%", output.partition("Reached")[2], re.M)}
    assert reached["fine-tuned"] > reached["same head, frozen features"] + 10
    assert reached["fine-tuned"] > reached["majority class"] + 20
