"""`plan allocate`, `check` and `export`."""

import json
from pathlib import Path

from planner import Plan
from planner.sensitivity.report import Estimate, TrialRun

ALPHAS = Path(__file__).parents[1] / "data" / "llama-7b-alpha-peak.csv"


def test_people_bring_their_own_alphas(plan_command, here):
    arguments = ["--spectra", ALPHAS, "--strategy", "alphalora", "--budget", "160 experts", "-o", "llama.json", "--json"]
    data = json.loads(plan_command("allocate", *arguments).stdout)
    counts = {int(site["name"].split(".")[2]): len(site["ranks"]) for site in data["sites"]}
    assert len(counts) == 32
    assert sum(counts.values()) == 160


def test_a_strategys_own_settings_are_options(plan_command, here):
    arguments = ["--spectra", ALPHAS, "--strategy", "alphalora", "--budget", "160 experts", "-o", "llama.json"]
    plan_command("allocate", *arguments, "--beta", "4", "--parity")
    chosen = Plan.load(here / "llama.json").settings.strategy
    assert (chosen.name, chosen.settings.beta, chosen.settings.parity) == ("alphalora", 4.0, True)
    refused = plan_command("allocate", "--model", "model", "--budget", "1%", "--strategy", "uniform", "--parity", code=1).stderr
    assert "--parity is a setting of strategy mola and alphalora and lora-smoe, not of strategy uniform" in refused


def test_allocate_prints_the_plan_and_at_most_two_notes(plan_command, here):
    arguments = ["--model", "model", "--strategy", "random", "--budget", "1%", "--max-experts", 4, "-o", "random.json"]
    output = plan_command("allocate", *arguments).output
    plan = Plan.load(here / "random.json")
    assert f"{plan.parameters:,} trainable parameters, routers included" in output
    assert output.count("note: ") == min(2, len(plan.notes))


def test_check_says_that_a_plan_fits(plan_command, here):
    assert "fits model: 36 sites" in plan_command("check", "uniform.json", "model").output


def test_check_lists_every_mismatch(plan_command, here, tiny_llama):
    result = plan_command("check", "uniform.json", tiny_llama, code=1)
    assert "none of its 36 sites" in result.stderr
    assert result.stderr.strip().endswith("2 mismatches")


def test_exporting(plan_command, here):
    plan_command("allocate", "--model", "model", "--strategy", "uniform", "--budget", "rank 1", "-o", "lora.json")
    assert json.loads(plan_command("export", "lora.json", "--format", "peft").stdout)["r"] == 1
    assert "wrote lora.csv" in plan_command("export", "lora.json", "--format", "csv", "-o", "lora.csv").output
    assert (here / "lora.csv").read_text().startswith("site,d_out,d_in,experts,ranks")
    assert "not one of peft, csv" in plan_command("export", "lora.json", "--format", "xml", code=2).stderr


def test_an_incomplete_trial_run_is_refused_in_the_words_of_the_command_line(plan_command, here, evidence):
    reduced = Estimate(mean=1.0, error=0.1)
    run = TrialRun(rank=2, steps=30, batch_size=8, learning_rate=1e-3, examples=64, loss_reduction=reduced, gap=0.2)
    report = evidence["sensitivity"]
    report.with_trial_run(run, {site.name: reduced for site in report.sites}).save(here / "incomplete.json")
    arguments = ["--spectra", "spectra.json", "--sensitivity", "incomplete.json", "--budget", "1%", "-o", "from-incomplete.json"]
    refused = plan_command("allocate", *arguments, code=1).stderr
    assert "miss 20% of what it gained" in refused
    assert "or set --incomplete to plan from it" in refused
    plan_command("allocate", *arguments, "--incomplete")
    assert Plan.load(here / "from-incomplete.json").settings.strategy.settings.incomplete
