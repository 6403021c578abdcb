"""Held-out evaluation: what a run reached, beside what costs nothing."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from planner import Plan
from spectra import InputError
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.reference_logits import require_same_logits
from trainer.adapters.store import build, find_base
from trainer.adapters.tensors import load_state, read_state
from trainer.base_model import load_tokenizer
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise
from trainer.evaluation.multiple_choice import choice_scores, has_choices, read_choices
from trainer.evaluation.scoring import exact_match, score
from trainer.report import Evaluation, Score, TaskEvaluation
from trainer.run_folder import PLAN, WEIGHTS

Progress = Callable[[int, int], None]
UNKNOWN = Score(loss=math.nan, accuracy=math.nan)


def evaluate(
    run: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    base: str | Path | None = None,
    generate: int = 0,
    untrained: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run's adapters.

    Args:
        run: what `plan train` wrote, or its folder `best`.
        data: held-out files in a format that the run was trained on, one per task; a language model is also scored on files of
            multiple-choice questions (`prompt`, `choices`, `answer`), by likelihood.
        base: the base model, if it has moved.
        generate: for a language model, also generate up to this many tokens for every prompt and compare with the reference.
        untrained: also score the model before training, which takes as long again; its scores are NaN otherwise.
        progress: called as progress(done, total), in examples.

    Raises:
        InputError: not a run, unusable data, or a label that the run does not know.
    """
    run = Path(run)
    config = load_config(run)
    checkpoint = find_base(config, base)
    tokenizer = load_tokenizer(checkpoint.folder)
    if generate and config.kind != "causal":
        raise InputError(f"--generate {generate} is for language models, and {run} is a classifier; leave it out")
    read_state(run / WEIGHTS)  # damaged adapters are found before the untrained model is scored, which takes time
    files = [Path(data)] if isinstance(data, str | Path) else [Path(file) for file in data]
    tasks = [_Task(file, config, tokenizer, generate) for file in files]
    plan = Plan.load(run / PLAN)
    model = build(checkpoint, plan, config).eval()
    counter = _Counter(progress, (1 + untrained) * sum(task.size for task in tasks))
    before = [counter.through(task, model) if untrained else UNKNOWN for task in tasks]
    load_state(run / WEIGHTS, model, plan)
    require_same_logits(model, config.reference, config.mixture.base_precision, run / WEIGHTS)
    trained = [counter.through(task, model) for task in tasks]
    scored = tuple(
        TaskEvaluation(
            name=task.name, examples=task.size, trained=after, untrained=first, majority=task.majority(config, len(tasks) > 1)
        )
        for task, first, after in zip(tasks, before, trained, strict=True)
    )
    return _pooled(scored, sum(task.truncated for task in tasks))


class _Counter:
    """Adds each pass's own count to what earlier passes have done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int) -> None:
        if self.progress:
            self.progress(self.before + done, self.total)

    def through(self, task: "_Task", model: Any) -> Score:
        found = task.score(model, self)
        self.before += task.size
        return found


class _Task:
    """One held-out file, ready to be scored."""

    def __init__(self, file: Path, config: AdapterConfig, tokenizer: Any, generate: int) -> None:
        self.name, self.tokenizer, self.generate = file.stem, tokenizer, generate
        self.choices, self.examples = None, None
        if config.kind == "causal" and has_choices(file):
            self.choices = read_choices(file, tokenizer, config.max_length)
            self.size, self.truncated = len(self.choices), 0
            return
        texts = read_texts(file)
        if config.kind == "causal" and texts.kind == "classification":
            raise InputError(f"{file}: has labels, but the run is a language model; give a file without")
        self.examples = tokenise(texts, tokenizer, config.max_length, config.labels, loss_on=config.loss_on)
        self.size, self.truncated = len(self.examples.rows), self.examples.truncated

    def score(self, model: Any, progress: Callable[[int], None]) -> Score:
        if self.choices is not None:
            return choice_scores(model, self.choices, self.tokenizer, progress)
        assert self.examples is not None
        found = score(model, self.examples, self.tokenizer, progress)
        if self.generate and self.examples.kind == "causal":
            share = exact_match(model, self.examples, self.tokenizer, self.generate)
            found = found.model_copy(update={"exact_match": share})
        return found

    def majority(self, config: AdapterConfig, of_several: bool) -> Score:
        """Always the most frequent training label; of several tasks, whose labels differ, each one's own most frequent label."""
        if not config.labels or self.examples is None:
            return UNKNOWN
        labels = list(self.examples.rows["labels"])
        counts = [labels.count(label) for label in range(len(config.labels))] if of_several else config.label_counts
        return _majority(counts, labels)


def _majority(counts: Sequence[int], labels: Sequence[int]) -> Score:
    favourite, total = max(range(len(counts)), key=lambda label: counts[label]), sum(counts)
    loss = math.fsum(-math.log(counts[label] / total) for label in labels) / len(labels)
    return Score(loss=loss, accuracy=labels.count(favourite) / len(labels))


def _pooled(tasks: tuple[TaskEvaluation, ...], truncated: int) -> Evaluation:
    total = sum(task.examples for task in tasks)

    def mean(who: str) -> Score:
        scores = [(getattr(task, who), task.examples) for task in tasks]
        fields = Score.model_fields
        return Score(**{name: math.fsum(getattr(score, name) * count for score, count in scores) / total for name in fields})

    return Evaluation(
        tasks=tasks,
        examples=total,
        truncated=truncated,
        trained=mean("trained"),
        untrained=mean("untrained"),
        majority=mean("majority"),
    )
