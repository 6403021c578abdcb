"""Studies: their statistics, and a real one that is interrupted."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import planner
import spectra
from spectra import InputError, open_checkpoint
from trainer import TrainSettings, compare
from trainer.data.split import split
from trainer.report import Evaluation, RunReport, Score, TaskEvaluation
from trainer.study.compare import _baselines
from trainer.study.jobs import Job
from trainer.study.report import BASELINE, Candidate, Result, StudyReport, sentence
from trainer.study.statistics import differences
from trainer.study.sweep import best_rates
from trainer.views.plots import draw
from trainer.views.tables import study_table

QUICK = TrainSettings(max_steps=3, batch_size=8, max_length=16, precision="fp32")


def results(scores):
    """Entrant -> task -> one score per seed."""
    return [
        Result(candidate=name, seed=seed, task=task, score=score)
        for name, tasks in scores.items()
        for task, values in tasks.items()
        for seed, score in enumerate(values)
    ]


def test_differences_are_paired_and_corrected_for_several_comparisons():
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 6)
    scores = {
        BASELINE: {"one": base, "two": base[::-1]},
        "better": {"one": base + 0.05 + rng.normal(0, 0.01, 6), "two": base[::-1] + 0.04 + rng.normal(0, 0.01, 6)},
        "same": {"one": base + rng.normal(0, 0.02, 6), "two": base[::-1] + rng.normal(0, 0.02, 6)},
    }
    found = {(one.candidate, one.task): one for one in differences(list(scores), results(scores))}
    assert found.keys() == {(name, task) for name in scores for task in ("one", "two", "all tasks")}
    delta = scores["better"]["one"] - base
    half = stats.t.ppf(1 - 0.05 / 4, 5) * delta.std(ddof=1) / 6**0.5  # two comparisons with one control
    one = found["better", "one"]
    assert (one.difference, one.low, one.high) == pytest.approx((delta.mean(), delta.mean() - half, delta.mean() + half))
    assert one.settled
    assert one.seeds_needed is None
    assert not found["same", "one"].settled
    pooled = (scores["better"]["one"] + scores["better"]["two"] - base - base[::-1]) / 2
    assert found["better", "all tasks"].difference == pytest.approx(pooled.mean())
    assert found[BASELINE, "one"].difference == found[BASELINE, "one"].high == 0


def test_seeds_needed_would_settle_it():
    delta = np.array([0.3, -0.1, 0.4, 0.0, 0.2])
    scores = {BASELINE: {"t": np.zeros(5)}, "maybe": {"t": delta}}
    (_, one) = differences(list(scores), results(scores))
    assert not one.settled
    n = one.seeds_needed
    width = lambda n: stats.t.ppf(0.975, n - 1) * delta.std(ddof=1) / n**0.5  # noqa: E731
    assert width(n) < delta.mean() <= width(n - 1)


def test_losses_read_as_losses(spectra_report):
    """Scores are minus the loss; a reader sees losses, to three digits, and how much less they are."""
    losses = np.array([3.006, 3.007, 3.004])
    scores = {BASELINE: {"t": -losses}, "less": {"t": -losses + 0.0125 + np.array([0, 0.001, -0.001])}}
    study = StudyReport(
        model=spectra_report.model,
        settings=QUICK,
        seeds=3,
        metric="loss",
        candidates=tuple(Candidate(name=name, strategy="uniform", parameters=1) for name in scores),
        results=tuple(results(scores)),
        differences=differences(list(scores), results(scores)),
    )
    assert sentence(study) == "less beats uniform LoRA by +0.013 +- 0.002 nats per token (better on 1, worse on 0 of 1 tasks)."
    table = study_table(study)
    assert "plus means a lower loss" in table.caption
    assert [list(column.cells) for column in table.columns][3:] == [
        ["3.006 +- 0.001", "2.993 +- 0.000"],
        ["", "+0.013 +- 0.002 *"],
    ]


@pytest.fixture(scope="module")
def plans(minilm, spectra_report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    planner.allocate(budget="60k", strategy="alphalora", max_experts=1, spectra=spectra_report).save(folder / "alpha.json")
    return [folder / "alpha.json"]


def test_a_study_runs_resumes_and_concludes(plans, minilm, small_corpus, tmp_path):
    def stop(done, _total, _run):
        if done == 3:
            raise KeyboardInterrupt

    options = {"seeds": 2, "processes": 1}
    with pytest.raises(KeyboardInterrupt):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options, progress=stop)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("evaluation.json")}
    assert len(finished) == 3
    report = compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    assert [candidate.name for candidate in report.candidates] == ["alpha", BASELINE, "uniform-mixture", "random", "head-only"]
    assert len(report.results) == 5 * 2
    assert {one.task for one in report.differences} == {"test"}
    text = sentence(report)
    assert len(text.splitlines()) == 3
    assert text.startswith("alpha")
    drawn = list(draw([tmp_path / "study" / "study.json"], tmp_path / "plots"))
    assert [path.name for path in drawn] == ["study-differences.png", "study-differences.svg"]
    size = planner.Plan.load(plans[0]).parameters
    sizes = {candidate.name: candidate.parameters for candidate in report.candidates}
    assert all(0.97 * size < sizes[control] <= size for control in (BASELINE, "uniform-mixture", "random"))
    changed = QUICK.model_copy(update={"learning_rate": 1e-2})
    with pytest.raises(InputError, match="study: holds a study with other settings; choose another folder"):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", changed, **options)
    with pytest.raises(InputError, match="study: holds a study with other tests; choose another folder"):
        compare(plans, minilm, small_corpus[:1], small_corpus[:1], tmp_path / "study", QUICK, **options)
    told = planner.Plan.load(plans[0]).model_copy(update={"version": "0.0.1", "notes": ("made anew",)})
    told.save(tmp_path / "alpha.json")  # the same adapters
    compare([tmp_path / "alpha.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    big = planner.allocate(budget="90k", strategy="mola", max_experts=1, model=open_checkpoint(minilm))
    for name, message in {"alpha": "holds runs of another plan named 'alpha'", "big": "began with plans of another size"}.items():
        big.save(tmp_path / f"{name}.json")
        with pytest.raises(InputError, match=message):
            compare([tmp_path / f"{name}.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, **options)


def test_a_scarce_budget_has_controls_that_are_even_over_the_layers(minilm):
    checkpoint = open_checkpoint(minilm)
    least = planner.allocate(budget="rank 1", strategy="uniform", model=checkpoint).parameters
    found = _baselines(least // 2, checkpoint, "classification")
    ranks = {}
    for site in found["uniform-lora"].sites:
        ranks.setdefault(site.name.rpartition("layer.")[2].partition(".")[2], set()).add(sum(site.ranks))
    assert all(len(own) == 1 for own in ranks.values())
    assert {0} in ranks.values()
    for name in ("uniform-lora", "random"):
        assert 0.8 * least / 2 < found[name].parameters <= least / 2
    assert len({sum(site.ranks) for site in found["random"].sites}) > 2


def test_a_budget_below_any_even_control_is_refused(minilm):
    with pytest.raises(InputError, match="plans of 900 parameters are smaller than rank 1 at any one projection type"):
        _baselines(900, open_checkpoint(minilm), "classification")


def test_a_sweep_gives_each_plan_its_own_learning_rate(plans, minilm, small_corpus, tmp_path):
    study = tmp_path / "study"
    seen = []
    planner.Plan.load(plans[0]).save(tmp_path / f"{BASELINE}.json")
    candidates = [*plans, tmp_path / f"{BASELINE}.json"]
    report = compare(
        candidates, minilm, small_corpus[:1], small_corpus[1:], study, QUICK.model_copy(update={"max_steps": 6}),
        seeds=2, processes=1, baselines=False, rates=(1e-6, 1e-2), progress=lambda *step: seen.append(step),
    )  # fmt: skip
    assert {candidate.name: candidate.learning_rate for candidate in report.candidates} == {"alpha": 1e-2, BASELINE: 1e-2}
    used = RunReport.load(study / "runs" / "alpha" / "seed-0" / "run.json").settings
    assert (used.learning_rate, used.seed) == (1e-2, 0)
    files = [study / f"sweep/data/0-{name}.jsonl" for name in ("train", "validation")]
    kept = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    assert sorted(kept) == sorted(json.loads(line)["text"] for line in small_corpus[0].read_text().splitlines())
    assert [step[:2] for step in seen] == [(number, 8) for number in range(1, 9)]


def test_too_little_data_to_sweep_on_is_refused(plans, minilm, tmp_path):
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": f"a {n}", "label": n % 2}) + "\n" for n in range(10)))
    with pytest.raises(InputError, match=r"few.jsonl: 10 examples are too few to keep a tenth for validation"):
        compare(plans, minilm, [tmp_path / "few.jsonl"], [tmp_path / "few.jsonl"], tmp_path / "study", QUICK, rates=(1e-3, 1e-2))


def test_unequal_plans_and_clashing_names_are_refused(plans, minilm, small_corpus, tmp_path):
    big = planner.allocate(budget="90k", strategy="uniform", max_experts=1, model=spectra.open_checkpoint(minilm))
    big.save(tmp_path / "big.json")
    with pytest.raises(InputError, match=r"plans differ in size by more than 10%: alpha [\d,]+, big [\d,]+"):
        compare([*plans, tmp_path / "big.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK)
    big.save(tmp_path / "random.json")
    with pytest.raises(InputError, match="plan 'random' has the name of a control; rename the file"):
        compare([tmp_path / "random.json"], minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK)
    with pytest.raises(InputError, match=r"without controls one of the plans must be called uniform-lora.json"):
        compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, baselines=False)
    assert not (tmp_path / "study").exists()


def test_rates_that_cannot_be_are_refused_before_anything_is_written(plans, minilm, small_corpus, tmp_path):
    for rates, told in [((-1e-3, 1e-2), "--lr-sweep: learning_rate"), ((1e-3, 1e-3), "--lr-sweep names a rate twice")]:
        with pytest.raises(InputError, match=told):
            compare(plans, minilm, small_corpus[:1], small_corpus[1:], tmp_path / "study", QUICK, rates=rates)
    twice = [small_corpus[1], small_corpus[1]]
    with pytest.raises(InputError, match="'test' is not a name for one task; rename the file"):
        compare(plans, minilm, small_corpus[:1], twice, tmp_path / "study", QUICK)
    assert not (tmp_path / "study").exists()


def scored(loss):
    score = Score(loss=loss, accuracy=0.5)
    task = TaskEvaluation(name="t", examples=1, trained=score, untrained=score, majority=score)
    return Evaluation(tasks=(task,), examples=1, truncated=0, trained=score, untrained=score, majority=score)


def test_a_rate_that_diverges_is_only_not_chosen():
    job = Job(candidate="a", plan="", model="", data=(), tests=(), folder="", settings=QUICK, threads=1)
    tried = ((1.0, None), (1e-2, scored(0.5)), (1e-3, scored(0.7)))
    jobs = [(replace(job, settings=QUICK.model_copy(update={"learning_rate": rate})), found) for rate, found in tried]
    assert best_rates(jobs) == {"a": 1e-2}
    with pytest.raises(InputError, match="plan 'a' diverges at every rate of --lr-sweep"):
        best_rates(jobs[:1])


def test_a_label_that_is_nowhere_else_is_not_held_back(tmp_path):
    rows = [{"text": f"text {number}", "label": f"rare {number}" if number % 4 == 0 else "common"} for number in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_part, held = (pd.read_json(path, lines=True) for path in split(tmp_path / "data.jsonl", tmp_path, 0))
    assert set(held["label"]) <= set(train_part["label"])
    assert len(train_part) + len(held) == 40


def test_a_study_watches_no_file(tiny_llama, sentences, tmp_path):
    with pytest.raises(InputError, match="patience 2: the runs of a study watch no evaluation file"):
        compare([], tiny_llama, [sentences], [sentences], tmp_path / "study", QUICK.model_copy(update={"patience": 2}))
    assert not (tmp_path / "study").exists()
