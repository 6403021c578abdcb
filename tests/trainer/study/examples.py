"""Studies made by hand."""

from spectra.report import ModelInfo
from trainer import Evaluation, TrainSettings
from trainer.report import TaskEvaluation
from trainer.study.report import Candidate, Result, StudyReport
from trainer.study.statistics import differences

QUICK = TrainSettings(max_steps=3, batch_size=8, max_length=16, precision="fp32")
MODEL = ModelInfo(name="model", parameters=1000, fingerprint="sha256:x")


def study_of(scores, metric, **changes):
    """Candidate -> task -> one score per seed; a score is minus the metric where less is better."""
    results = tuple(
        Result(candidate=name, seed=seed, task=task, score=score)
        for name, tasks in scores.items()
        for task, values in tasks.items()
        for seed, score in enumerate(values)
    )
    values = {
        "model": MODEL, "settings": QUICK, "seeds": len(next(iter(next(iter(scores.values())).values()))), "metric": metric,
        "candidates": tuple(Candidate(name=name, strategy="uniform", parameters=1000 + len(name)) for name in scores),
        "results": results, "differences": differences(list(scores), results),
    }  # fmt: skip
    return StudyReport(**values | changes)


def evaluation_of(**tasks):
    """An evaluation with the scores of some tasks."""
    parts = tuple(
        TaskEvaluation(name=name, examples=1, trained=scores, untrained={}, majority={}) for name, scores in tasks.items()
    )
    return Evaluation(tasks=parts, examples=len(parts), truncated=0, trained=parts[0].trained, untrained={}, majority={})
