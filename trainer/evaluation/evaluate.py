"""Held-out evaluation: what a run reached, beside what costs nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import Plan
from spectra import Checkpoint, InputError
from spectra.core.progress import Progress, silent
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.reference_logits import require_same_logits
from trainer.adapters.store import build, find_base
from trainer.adapters.tensors import load_state, read_state
from trainer.base_model import load_tokenizer, on_device
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise
from trainer.evaluation.metrics import Answers, pooled, scores
from trainer.evaluation.multiple_choice import picks_of, questions_of
from trainer.evaluation.scoring import answers_of, prompt_of, with_generated
from trainer.evaluation.untrained import Untrained, keep, kept, place_of
from trainer.limits import require_room, require_vocabulary
from trainer.report import Evaluation, Generation, TaskEvaluation
from trainer.run_folder import PLAN, WEIGHTS
from trainer.settings import Precision

SHOWN = 3  # texts that an evaluation keeps


def evaluate(
    run: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    base: str | Path | None = None,
    generate: int = 0,
    untrained: bool = True,
    by_example: bool = False,
    precision: Precision = "auto",
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate a run's adapters.

    Args:
        run: what `plan train` wrote, or its folder `best`.
        data: held-out files in a format that the run was trained on, one per task; a language model is also scored on files of
            multiple-choice questions (`prompt`, `choices`, `answer`), by likelihood.
        base: the base model, if it has moved.
        generate: for a language model, also generate up to this many tokens for every prompt and compare with the reference.
        untrained: also score the model before training, which takes as long again where it has not been done before.
        by_example: also keep what every example scored.
        precision: of the base's weights and of what is computed with them; `auto` is the one that the run was trained in, so that
            the held-out loss is the same number here as there.
        progress: told the number of examples done, in all passes together.

    Raises:
        InputError: not a run, unusable data, or a label that the run does not know.
    """
    run = Path(run)
    config = load_config(run)
    checkpoint = find_base(config, base)
    tokenizer = load_tokenizer(checkpoint.location, config.chat_template)
    if generate and config.task != "causal":
        raise InputError(f"`generate` {generate} is for language models, and {run} is a classifier; leave it out")
    read_state(run / WEIGHTS)  # damaged adapters are found before the untrained model is scored, which takes time
    files = [Path(data)] if isinstance(data, str | Path) else [Path(file) for file in data]
    tasks = [prepare_task(file, config, tokenizer, checkpoint, generate) for file in files]
    plan = Plan.load(run / PLAN)
    # One model for both: as built it is untrained, and the run's tensors are filled in afterwards.
    model = on_device(build(checkpoint, plan, config, exact := config.precision if precision == "auto" else precision)).eval()
    places = [place_of(checkpoint, file, config, exact, generate) for file in files]
    known = [kept(place) if untrained else Untrained(scores={}) for place in places]
    counter = _Counter(progress, sum(task.work * (1 + (one is None)) for task, one in zip(tasks, known, strict=True)))
    before = [one or _untrained(counter, task, model, place) for one, task, place in zip(known, tasks, places, strict=True)]
    load_state(run / WEIGHTS, model)
    require_same_logits(model, config.reference, (exact, config.precision), run / WEIGHTS)
    trained = [counter.through(task, model) for task in tasks]
    scored = [
        TaskEvaluation(
            name=task.name,
            examples=task.size,
            trained=after,
            untrained=first.scores,
            majority=_majority(task.labels, config, of_several=len(tasks) > 1),
            generations=_generations(answers, first.generated),
            by_example=_by_example(answers) if by_example else {},
        )
        for task, first, (after, answers) in zip(tasks, before, trained, strict=True)
    ]
    return _whole(scored, sum(task.truncated for task in tasks))


def _untrained(counter: "_Counter", task: "_Task", model: Any, place: Path) -> Untrained:
    scored, answers = counter.through(task, model)
    found = Untrained(scores=scored, generated=tuple(text for text, _ in answers.generated[:SHOWN]))
    keep(place, found)
    return found


def _by_example(answers: Answers) -> dict[str, tuple[float, ...]]:
    right = {"accuracy": tuple(float(picked == answer) for picked, answer in answers.picks)} if answers.picks else {}
    return {"loss": tuple(answers.losses)} | right


def _generations(answers: Answers, before: Sequence[str]) -> tuple[Generation, ...]:
    shown = zip(answers.prompts[:SHOWN], answers.generated[:SHOWN], [*before, *[""] * SHOWN], strict=False)
    return tuple(
        Generation(prompt=prompt, reference=reference, untrained=first, trained=text)
        for prompt, (text, reference), first in shown
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One held-out file, ready to be answered."""

    name: str
    size: int
    work: int
    """What `ask` counts up to: the examples, twice if they are also generated from."""
    ask: Callable[[Any, Callable[[int], None]], Answers]
    """Model and a callback for the number of examples done -> answers."""
    truncated: int = 0
    labels: Sequence[int] = ()
    """The right classes; empty for a language model."""


def prepare_task(file: Path, config: AdapterConfig, tokenizer: Any, checkpoint: Checkpoint, generate: int) -> _Task:
    """Read and tokenise a file, refusing one that the run's model cannot answer."""
    texts = read_texts(file, evaluation=config.task == "causal", settings=config.data, lenient=True)
    if texts.asks:
        questions = questions_of(texts, tokenizer, config.data.length, config.data if config.conversations else None)
        asked = [ids for question in questions for ids in (*question.prompts, *question.choices)]
        require_vocabulary(checkpoint, tokenizer, asked, file)
        ask = lambda model, done: picks_of(model, questions, tokenizer, done)  # noqa: E731 - its sibling below is longer
        return _Task(name=file.stem, size=len(questions), work=len(questions), ask=ask)
    if config.task == "causal" and texts.task == "classification":
        raise InputError(f"{file}: has labels, but the run is a language model; give a file without")
    examples = tokenise(texts, tokenizer, config.data.length, config.labels, settings=config.data)
    require_vocabulary(checkpoint, tokenizer, examples.rows["input_ids"], file)
    if generate:
        require_room(checkpoint, max(len(prompt_of(row)[0]) for row in examples.rows), generate)
    size = len(examples.rows)

    def answer(model: Any, done: Callable[[int], None]) -> Answers:
        found = answers_of(model, examples, tokenizer, done)
        if not generate:
            return found
        return with_generated(found, model, examples, tokenizer, generate, lambda count: done(size + count))

    labels = list(examples.rows["labels"]) if config.labels else ()
    work = size * 2 if generate else size
    return _Task(name=file.stem, size=size, work=work, ask=answer, truncated=examples.truncated, labels=labels)


class _Counter:
    """Adds each pass's own count to what earlier passes have done."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.before = progress, total, 0

    def __call__(self, done: int) -> None:
        self.progress(self.before + done, self.total)

    def through(self, task: _Task, model: Any) -> tuple[dict[str, float], Answers]:
        answers = task.ask(model, self)
        self.before += task.work
        return scores(answers), answers


def _majority(labels: Sequence[int], config: AdapterConfig, *, of_several: bool) -> dict[str, float]:
    """Always the most frequent training label; of several tasks, whose labels differ, each one's own most frequent label."""
    if not labels:
        return {}
    # Each label of the file is known to the run, so neither kind of count is zero where a logarithm is taken.
    counts = [labels.count(label) for label in range(len(config.labels))] if of_several else config.label_counts
    favourite, total = max(range(len(counts)), key=lambda label: counts[label]), sum(counts)
    loss = math.fsum(-math.log(counts[label] / total) for label in labels) / len(labels)
    return {"accuracy": labels.count(favourite) / len(labels), "loss": loss}


def _whole(tasks: Sequence[TaskEvaluation], truncated: int) -> Evaluation:
    examples = [task.examples for task in tasks]
    return Evaluation(
        tasks=tuple(tasks),
        examples=sum(examples),
        truncated=truncated,
        trained=pooled([task.trained for task in tasks], examples),
        untrained=pooled([task.untrained for task in tasks], examples),
        majority=pooled([task.majority for task in tasks], examples),
    )
