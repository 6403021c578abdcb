"""Studies made by hand."""

import numpy as np

from spectra.report import ModelInfo
from trainer import TrainSettings
from trainer.study.differences import Scores, against, between
from trainer.study.report import Arm, Result, StudyReport, TestFile
from trainer.study.runs import Outcome, Scored

QUICK = TrainSettings(max_steps=3, batch_size=8, max_length=16, precision="fp32")
MODEL = ModelInfo(name="model", parameters=1000, fingerprint="sha256:x")
EXAMPLES = 20


def outcome_of(tests, measure, **changes):
    """Test -> the mean that a run scored, or a score for every example."""
    pattern = np.linspace(-0.1, 0.1, EXAMPLES)  # examples differ, but alike for all
    scored = {}
    for name, value in tests.items():
        values = np.asarray(value) if np.ndim(value) else value + pattern
        by_example = {"loss": (1.0,) * len(values)} | {measure: tuple(values.tolist())}
        scored[name] = Scored(
            scores={measure: float(values.mean()), "loss": float(np.mean(by_example["loss"]))}, by_example=by_example
        )
    return Outcome(**{"seconds": 1.0, "peak_memory": 2**20, "tests": scored} | changes)


def files_of(names, measure):
    return [TestFile(name=name, sha256=name, examples=EXAMPLES, measure=measure) for name in names]


def scores_of(scores, measure):
    """Arm -> test -> one value per seed, each a mean or the values of all examples."""
    found = Scores()
    for arm, tests in scores.items():
        for seed in range(len(next(iter(tests.values())))):
            found.add(arm, seed, outcome_of({name: values[seed] for name, values in tests.items()}, measure))
    return found


def study_of(scores, measure, **changes):
    """A report of such scores."""
    names, files = list(scores), files_of(next(iter(scores.values())), measure)
    found = scores_of(scores, measure)
    results = tuple(
        Result(arm=name, seed=seed, test=test, scores={measure: float(np.mean(value))}, folder=f"{name}.{seed}")
        for name, tests in scores.items()
        for test, values in tests.items()
        for seed, value in enumerate(values)
    )
    values = {
        "model": MODEL, "data": {"data.jsonl": "x"}, "settings": QUICK,
        "seeds": len(next(iter(next(iter(scores.values())).values()))), "tests": tuple(files),
        "arms": tuple(
            Arm(name=name, strategy="uniform", parameters=1000 + len(name), learning_rate=1e-3, runs=2) for name in scores
        ),
        "results": results, "differences": against(found, names, names[0], files),
        "between": between(found, names[1:], files),
    }  # fmt: skip
    return StudyReport(**values | changes)
