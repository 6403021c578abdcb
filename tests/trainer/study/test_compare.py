"""Studies: a real one that is interrupted, and what is refused before anything is written."""

import pytest

import planner
from planner import AllocationSettings
from planner.plan import Note
from spectra import InputError, open_checkpoint
from tests.trainer.examples import read_rows, uniform, write_rows
from tests.trainer.study.examples import QUICK, evaluation_of
from trainer import RunReport, compare
from trainer.run_folder import EVALUATION, REPORT
from trainer.study.compare import metric_of
from trainer.study.report import BASELINE, STUDY, StudyReport, sentence


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """A run in this process would otherwise take all cores, by which tiny products lose."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def plans(minilm, spectra_report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    planner.allocate("60k", AllocationSettings(strategy="alphalora", max_experts=1), spectra=spectra_report).save(
        folder / "alpha.json"
    )
    return [folder / "alpha.json"]


@pytest.mark.training
def test_a_study_runs_resumes_and_concludes(plans, minilm, small_corpus, tmp_path):
    def stop(done, total=None, note=""):
        if done == 3:
            raise KeyboardInterrupt

    options = {"seeds": 2, "processes": 1}
    with pytest.raises(KeyboardInterrupt):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options, progress=stop)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob(EVALUATION)}
    assert len(finished) == 3
    report = compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    assert [candidate.name for candidate in report.candidates] == ["alpha", BASELINE, "uniform-mixture", "random", "head-only"]
    assert len(report.results) == 5 * 2
    assert {one.task for one in report.differences} == {"test"}
    text = sentence(report)
    assert len(text.splitlines()) == 3
    assert text.startswith("alpha")
    assert StudyReport.load(tmp_path / "study" / STUDY).to_json() == report.to_json()
    size = planner.Plan.load(plans[0]).parameters
    sizes = {candidate.name: candidate.parameters for candidate in report.candidates}
    assert all(0.97 * size < sizes[baseline] <= size for baseline in (BASELINE, "uniform-mixture", "random"))
    changed = QUICK.model_copy(update={"learning_rate": 1e-2})
    with pytest.raises(InputError, match="study: holds a study with other settings; choose another folder"):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", changed, **options)
    with pytest.raises(InputError, match="study: holds a study with other tests; choose another folder"):
        compare(plans, minilm, small_corpus[:1], small_corpus[:1], tmp_path / "study", QUICK, **options)
    renewed = planner.Plan.load(plans[0]).model_copy(update={"version": "0.0.1", "notes": (Note(about="new", text="made anew"),)})
    renewed.save(tmp_path / "alpha.json")  # the same adapters
    compare([tmp_path / "alpha.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    big = planner.allocate("90k", AllocationSettings(strategy="mola", max_experts=1), model=open_checkpoint(minilm))
    for name, message in {"alpha": "holds runs of another plan named 'alpha'", "big": "began with plans of another size"}.items():
        big.save(tmp_path / f"{name}.json")
        with pytest.raises(InputError, match=message):
            compare([tmp_path / f"{name}.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)


@pytest.mark.training
def test_a_sweep_gives_each_plan_its_own_learning_rate(plans, minilm, small_corpus, tmp_path):
    study = tmp_path / "study"
    seen = []
    planner.Plan.load(plans[0]).save(tmp_path / f"{BASELINE}.json")
    candidates = [*plans, tmp_path / f"{BASELINE}.json"]
    report = compare(
        candidates, minilm, small_corpus[:1], small_corpus[1:], study, QUICK.model_copy(update={"max_steps": 6}),
        seeds=2, processes=1, baselines=False, rates=(1e-6, 1e-2),
        progress=lambda done, total=None, note="": seen.append((done, total, note)),
    )  # fmt: skip
    assert {candidate.name: candidate.learning_rate for candidate in report.candidates} == {"alpha": 1e-2, BASELINE: 1e-2}
    used = RunReport.load(study / "runs" / "alpha" / "seed-0" / REPORT).settings
    assert (used.learning_rate, used.seed) == (1e-2, 0)
    files = [study / f"sweep/data/0-{name}.jsonl" for name in ("train", "validation")]
    kept = [row["text"] for file in files for row in read_rows(file)]
    assert sorted(kept) == sorted(row["text"] for row in read_rows(small_corpus[0]))
    assert [step[:2] for step in seen] == [(number, 8) for number in range(1, 9)]
    assert {step[2] for step in seen[4:]} == {f"{name}, seed-{seed}" for name in ("alpha", BASELINE) for seed in (0, 1)}


def test_too_little_data_to_sweep_on_is_refused(plans, minilm, tmp_path):
    write_rows(tmp_path / "few.jsonl", [{"text": f"a {number}", "label": number % 2} for number in range(10)])
    with pytest.raises(InputError, match=r"few.jsonl: 10 examples are too few to keep a tenth for validation"):
        compare(plans, minilm, [tmp_path / "few.jsonl"], [tmp_path / "few.jsonl"], tmp_path / "study", QUICK, rates=(1e-3, 1e-2))


def test_unequal_plans_and_clashing_names_are_refused(plans, minilm, small_corpus, tmp_path):
    big = uniform(minilm, "90k", max_experts=1)
    big.save(tmp_path / "big.json")
    with pytest.raises(InputError, match=r"plans differ in size by more than 10%: alpha [\d,]+, big [\d,]+"):
        compare([*plans, tmp_path / "big.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK)
    big.save(tmp_path / "random.json")
    with pytest.raises(InputError, match="plan 'random' has the name of a baseline; rename the file"):
        compare([tmp_path / "random.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK)
    with pytest.raises(InputError, match=r"without baselines one of the plans must be called uniform-lora.json"):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, baselines=False)
    assert not (tmp_path / "study").exists()


def test_rates_that_cannot_be_are_refused_before_anything_is_written(plans, minilm, small_corpus, tmp_path):
    for rates, message in [((-1e-3, 1e-2), "`rates`: learning_rate"), ((1e-3, 1e-3), "`rates` names a rate twice")]:
        with pytest.raises(InputError, match=message):
            compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, rates=rates)
    twice = [small_corpus[1], small_corpus[1]]
    with pytest.raises(InputError, match="'test' is not a name for one task; rename the file"):
        compare(plans, minilm, small_corpus[:1], twice, tmp_path / "study", QUICK)
    assert not (tmp_path / "study").exists()


def test_a_study_watches_no_file(tiny_llama, sentences, tmp_path):
    with pytest.raises(InputError, match="`patience` 2: the runs of a study watch no evaluation file"):
        compare([], tiny_llama, [sentences], [sentences], tmp_path / "study", QUICK.model_copy(update={"patience": 2}))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("tasks", "metric"),
    [
        (({"accuracy": 1.0, "f1": 1.0, "loss": 1.0}, {"accuracy": 1.0, "loss": 1.0}), "accuracy"),
        (({"perplexity": 3.0, "loss": 1.0}, {"perplexity": 3.0, "loss": 1.0}), "loss"),
        (({"perplexity": 3.0, "loss": 1.0}, {"accuracy": 1.0, "loss": 1.0}), "loss"),
    ],
)
def test_the_first_metric_that_every_task_has_and_that_can_be_compared_is(tasks, metric):
    one = evaluation_of(**{f"task-{number}": scores for number, scores in enumerate(tasks)})
    assert metric_of([one, one]) == metric
