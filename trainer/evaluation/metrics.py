"""The table of metrics: a model's answers in, one number out. A new metric is one function and one line here. Loads no torch."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A model's answers on one set of examples."""

    task: Literal["classification", "causal", "multiple-choice"]
    losses: Sequence[float]
    """Cross-entropy of each example in nats; of a language model's example, or of the right choice, per token."""
    picks: Sequence[tuple[int, int]] = ()
    """The class or choice that was picked, and the right one, per example; empty for language modelling."""
    normalised: Sequence[tuple[int, int]] = ()
    """Of multiple choice: the choice with the largest log-likelihood per character, and the right one, per question."""
    generated: Sequence[tuple[str, str]] = ()
    """The generated text and the reference, per example; empty if nothing was generated."""
    prompts: Sequence[str] = ()
    """What was generated from, per example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row of the table."""

    compute: Callable[[Answers], float | None]
    """The metric; None where it does not apply, NaN where it cannot be measured."""
    form: str
    """How a table shows it, as a format specification."""
    pool: Callable[[Sequence[float], Sequence[int]], float]
    """Values of several tasks and their numbers of examples -> one value."""
    higher_is_better: bool = True
    compared: bool = True
    """Whether a study may compare it: differences of means have to say something."""
    scale: float = 1.0
    """Factor on differences before a study shows them in `unit`."""
    unit: str = ""
    digits: int = 3
    """Digits after the point of a difference."""

    @property
    def sign(self) -> int:
        """Factor that makes more better: 1, or -1 for a metric that should be small."""
        return 1 if self.higher_is_better else -1


def weighted_mean(values: Sequence[float], examples: Sequence[int]) -> float:
    """Mean over all examples."""
    return math.fsum(value * count for value, count in zip(values, examples, strict=True)) / sum(examples)


def geometric_mean(values: Sequence[float], examples: Sequence[int]) -> float:
    """Geometric mean over all examples: the perplexity of the mean loss."""
    return math.exp(weighted_mean([math.log(value) for value in values], examples))


def accuracy(answers: Answers) -> float | None:
    """Share of right classes, or of questions whose right choice has the largest log-likelihood."""
    return _share(answers.picks)


def acc_norm(answers: Answers) -> float | None:
    """Share of questions whose right choice has the largest log-likelihood per character."""
    return _share(answers.normalised)


def _share(picks: Sequence[tuple[int, int]]) -> float | None:
    return sum(picked == right for picked, right in picks) / len(picks) if picks else None


def f1(answers: Answers) -> float | None:
    """F1 of every class that occurs among the answers or the labels, averaged."""
    if answers.task != "classification":
        return None
    picked, right = (Counter(side) for side in zip(*answers.picks, strict=True))
    hits = Counter(one for one, other in answers.picks if one == other)
    # 2 TP / (2 TP + FP + FN), where picked counts TP + FP and right TP + FN. A class that neither has would be 0 / 0.
    classes = picked.keys() | right.keys()
    return math.fsum(2 * hits[name] / (picked[name] + right[name]) for name in classes) / len(classes)


def exact_match(answers: Answers) -> float | None:
    """Share of generated texts that equal the reference, spaces at both ends aside."""
    pairs = answers.generated
    return sum(text.strip() == reference.strip() for text, reference in pairs) / len(pairs) if pairs else None


def perplexity(answers: Answers) -> float | None:
    """The exponential of the loss of a language model."""
    return math.exp(min(loss(answers), 700.0)) if answers.task == "causal" else None  # e^700 is still a float


def loss(answers: Answers) -> float:
    """Mean cross-entropy per example."""
    return math.fsum(answers.losses) / len(answers.losses)


# The order counts: studies and figures take the first metric that applies.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(compute=accuracy, form=".1%", pool=weighted_mean, scale=100, unit="points", digits=2),
    "acc_norm": Metric(compute=acc_norm, form=".1%", pool=weighted_mean, scale=100, unit="points", digits=2),
    "f1": Metric(compute=f1, form=".1%", pool=weighted_mean, scale=100, unit="points", digits=2),
    "exact_match": Metric(compute=exact_match, form=".1%", pool=weighted_mean, scale=100, unit="points", digits=2),
    "perplexity": Metric(compute=perplexity, form=".2f", pool=geometric_mean, higher_is_better=False, compared=False),
    "loss": Metric(compute=loss, form=".3f", pool=weighted_mean, higher_is_better=False, unit="nats per token"),
}


def scores(answers: Answers) -> dict[str, float]:
    """Every metric that applies to these answers, by name."""
    found = {name: metric.compute(answers) for name, metric in METRICS.items()}
    return {name: value for name, value in found.items() if value is not None}


def pooled(tasks: Sequence[Mapping[str, float]], examples: Sequence[int]) -> dict[str, float]:
    """The metrics that all tasks have, over all their examples."""
    shared = [name for name in METRICS if all(name in task for task in tasks)]
    return {name: METRICS[name].pool([task[name] for task in tasks], examples) for name in shared}
