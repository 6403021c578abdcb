"""`plan compare`: real studies that are interrupted, asked again and shared, and what is refused before anything is written."""

import json
import subprocess
import sys

import pytest

import planner
from planner import AllocationSettings, Plan
from planner.plan import Note
from spectra import InputError
from tests.trainer.examples import read_rows, uniform, write_rows
from tests.trainer.study.examples import QUICK
from trainer import RunReport, compare
from trainer.run_folder import REPORT
from trainer.study.compare import _told
from trainer.study.export import TABLES
from trainer.study.report import BASELINE, STUDY, Power, StudyReport
from trainer.study.runs import OUTCOME
from trainer.study.verdict import verdict

ALL = ["alpha", BASELINE, "uniform-mixture", "random", "head-only"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """A run in this process would otherwise take all cores, by which tiny products lose."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def plans(minilm, spectra_report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    made = AllocationSettings(strategy="alphalora", max_experts=1)
    planner.allocate("60k", made, spectra=spectra_report).save(folder / "alpha.json")
    return [folder / "alpha.json"]


@pytest.fixture
def study(plans, minilm, small_corpus, tmp_path):
    """Runs a study of the plans; what is not asked is decided."""

    def run(plans=plans, settings=QUICK, **options):
        given = {"output": tmp_path / "study", "data": small_corpus[:1], "tests": small_corpus[1:]} | options
        defaults = {"seeds": 2, "processes": 1, "rates": (), "binding": "skip"}
        files = given.pop("data"), given.pop("tests"), given.pop("output")
        return compare(plans, minilm, *files, settings, **defaults | given)

    return run


def finished(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob(OUTCOME)}


@pytest.mark.training
def test_a_study_resumes_and_its_runs_serve_other_questions(study, plans, minilm, tmp_path):
    def stop(done, total=None, note=""):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(progress=stop)
    before = finished(tmp_path / "study")
    assert len(before) == 3
    report = study()
    assert before.items() <= finished(tmp_path / "study").items()
    assert [arm.name for arm in report.arms] == ALL
    assert len(report.results) == 5 * 2
    assert {one.test for one in report.differences} == {"test"}
    assert len(verdict(report).splitlines()) == 3
    assert StudyReport.load(tmp_path / "study" / STUDY).to_json() == report.to_json()
    assert all((tmp_path / "study" / name).is_file() for name in TABLES.values())
    size = Plan.load(plans[0]).parameters
    assert all(0.97 * size < report.arm(name).parameters <= size for name in ALL[1:4])
    # The same adapters under another name, and one arm more: only its own runs are new.
    done = finished(tmp_path / "study")
    renewed = Plan.load(plans[0]).model_copy(update={"version": "0.0.1", "notes": (Note(about="new", text="made anew"),)})
    renewed.save(tmp_path / "renamed.json")
    again = study([tmp_path / "renamed.json"], arms=[f"loud={plans[0]},alpha=64"])
    now = finished(tmp_path / "study")
    assert done.items() <= now.items()
    assert len(now) == len(done) + 2
    assert again.arm("loud").changes == {"alpha": 64.0}
    assert [one.test for one in again.between] == ["test"]
    loss = {arm: [one.scores for one in report.results if one.arm == arm] for arm in ("alpha", BASELINE)}
    assert [one.scores for one in again.results if one.arm == "renamed"] == loss["alpha"]
    # With other settings or data they are other runs, in the same folder.
    study(
        settings=QUICK.model_copy(update={"learning_rate": 1e-2}), seeds=1, baselines=False, plans=_with_baseline(plans, tmp_path)
    )
    assert now.items() <= finished(tmp_path / "study").items()


def _with_baseline(plans, folder):
    Plan.load(plans[0]).save(folder / f"{BASELINE}.json")
    return [*plans, folder / f"{BASELINE}.json"]


@pytest.mark.training
def test_each_plan_gets_its_own_learning_rate(study, plans, small_corpus, tmp_path):
    seen = []
    longer = QUICK.model_copy(update={"max_steps": 6})
    report = study(
        _with_baseline(plans, tmp_path), longer, baselines=False, rates=(1e-6, 1e-2),
        progress=lambda done, total=None, note="": seen.append((done, total, note)),
    )  # fmt: skip
    assert {arm.name: arm.learning_rate for arm in report.arms} == {"alpha": 1e-2, BASELINE: 1e-2}
    assert [[one.learning_rate for one in arm.tried] for arm in report.arms] == [[1e-6, 1e-2]] * 2
    assert all(arm.tuning_seconds > 0 for arm in report.arms)
    folder = tmp_path / "study"
    (run,) = folder.glob("runs/alpha.seed-0.*")
    used = RunReport.load(run / REPORT).settings
    assert (used.learning_rate, used.seed) == (1e-2, 0)
    files = [folder / f"validation/0-{name}.jsonl" for name in ("train", "validation")]
    kept = [row["text"] for file in files for row in read_rows(file)]
    assert sorted(kept) == sorted(row["text"] for row in read_rows(small_corpus[0]))
    # Both names are one plan, so its runs are done once: two rates and two seeds.
    assert [done for done, _, _ in seen] == [1, 2, 3, 4]
    (one,) = [one for one in report.differences if one.arm == "alpha"]
    assert (one.difference, one.significant) == (0.0, False)


@pytest.mark.training
def test_a_budget_that_does_not_bind_ends_the_study_and_one_that_cannot_be_told_does_not(study, plans, tmp_path, monkeypatch):
    # The rates hardly train, so no size wins anything; whether that is established is decided by what counts as negligible.
    options = {"settings": QUICK.model_copy(update={"learning_rate": 1e-5}), "binding": "stop", "baselines": False}
    given = _with_baseline(plans, tmp_path)
    monkeypatch.setattr("trainer.study.binding._most_lost", lambda one: 0.0)
    report = study(given, **options)
    assert report.stopped
    assert report.binding.binds is False
    assert len(report.binding.sizes) >= 3
    budget, verdict_of_plans, _ = verdict(report).splitlines()
    assert budget.startswith("The budget does not bind: uniform LoRA of ")
    assert verdict_of_plans.startswith("No plans were compared: where size does not matter, place cannot either")
    assert {one.arm for one in report.results} == {size.arm for size in report.binding.sizes}
    assert {arm.name for arm in report.arms if arm.runs} == {size.arm for size in report.binding.sizes}
    noted = study(given, **options | {"binding": "note"})
    assert noted.binding == report.binding
    assert {one.arm for one in noted.differences} == {"alpha", BASELINE}
    monkeypatch.setattr("trainer.study.binding._most_lost", lambda one: 1.0)
    unsure = study(given, **options)
    assert unsure.binding.binds is None
    assert not unsure.stopped
    assert verdict(unsure).startswith("Whether the budget binds cannot be told: ")


@pytest.mark.training
def test_two_processes_share_a_studys_folder(plans, minilm, small_corpus, tmp_path):
    study, given = tmp_path / "study", _with_baseline(plans, tmp_path)
    command = [sys.executable, "-m", "cli", "compare", *given, "--model", minilm, "--data", small_corpus[0], "--test",
               small_corpus[1], "--output", study, "--seeds", 2, "--no-baselines", "--lr-sweep", 1e-3, "--binding", "skip",
               "--max-steps", 3, "--max-length", 16, "--processes", 1, "--json"]  # fmt: skip
    started = [subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(one.communicate()[0]) for one in started]
    assert [one.returncode for one in started] == [0, 0]
    assert reports[0]["results"] == reports[1]["results"]
    assert len(finished(study)) == 2  # both names are one plan


def test_what_a_study_can_find_is_said_before_it_starts():
    power = Power(test="test", measure="loss", seeds=4, examples=100, detectable=0.0213, seeds_for_half=19, planned_seconds=1200)
    assert _told(power, 40, 2) == (
        "4 seeds find differences of 0.021 nats per token in four of five studies, half of that takes 19 seeds; 40 runs remain,"
        " about 10 min with 2 at a time"
    )
    endless = power.model_copy(update={"seeds_for_half": None, "planned_seconds": float("nan")})
    assert _told(endless, 40, 2).endswith("in four of five studies, half of that takes more test examples")


def test_too_little_data_to_choose_a_rate_on_is_refused(study, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", [{"text": f"a {number}", "label": number % 2} for number in range(10)])
    with pytest.raises(InputError, match=r"few.jsonl: 10 examples are too few to keep a tenth for validation"):
        study(data=[few], tests=[few], rates=None)
    assert not (tmp_path / "study").exists()


def test_unequal_plans_and_clashing_names_are_refused(study, plans, minilm, tmp_path):
    big = uniform(minilm, "90k", max_experts=1)
    big.save(tmp_path / "big.json")
    with pytest.raises(InputError, match=r"plans differ in size by more than 0.5%: alpha [\d,]+, big [\d,]+"):
        study([*plans, tmp_path / "big.json"])
    big.save(tmp_path / "random.json")
    with pytest.raises(InputError, match="plan 'random' has the name of a baseline; rename the file"):
        study([tmp_path / "random.json"])
    with pytest.raises(InputError, match=r"without baselines one of the plans must be called uniform-lora.json"):
        study(baselines=False)
    assert not (tmp_path / "study").exists()


def test_rates_that_cannot_be_are_refused_before_anything_is_written(study, small_corpus, tmp_path):
    for rates, message in [((-1e-3, 1e-2), "`rates`: learning_rate"), ((1e-3, 1e-3), "`rates` names a rate twice")]:
        with pytest.raises(InputError, match=message):
            study(rates=rates)
    with pytest.raises(InputError, match="'test' is not a name for one; rename the file"):
        study(tests=[small_corpus[1], small_corpus[1]])
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 2}, "`patience` 2: the runs of a study watch no evaluation file"),
        ({"shard": True}, "`shard` splits the weights of one run"),
        ({"learning_rate": "auto"}, "`learning_rate` auto is for a single run"),
        ({"balance_loss": 0.5}, "`balance_loss` has no effect"),
    ],
)
def test_settings_that_a_study_cannot_use_are_refused(study, plans, tmp_path, changes, message):
    given = _with_baseline(plans, tmp_path)
    with pytest.raises(InputError, match=message):
        study(given, QUICK.model_copy(update=changes), baselines=False)
    assert not (tmp_path / "study").exists()


def test_a_setting_of_one_arm_that_changes_nothing_is_refused(study, plans, tmp_path):
    with pytest.raises(InputError, match=r"arm 'balanced': `balance_loss` has no effect .*; leave it out"):
        study(arms=[f"balanced={plans[0]},balance_loss=0.5"])
    assert not (tmp_path / "study").exists()
