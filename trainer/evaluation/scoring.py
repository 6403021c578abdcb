"""Scores of one model on tokenised examples."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from planner import example_losses
from trainer.data.dataset import batches
from trainer.data.examples import Examples
from trainer.report import Score

BATCH, GENERATED = 64, 16  # examples at a time


@torch.inference_mode()
def score(model: Any, examples: Examples, tokenizer: Any, progress: Callable[[int], None]) -> Score:
    """Mean loss, and for a classifier accuracy and macro-averaged F1.

    Args:
        model: in evaluation mode.
        examples: tokenised.
        tokenizer: the model's own.
        progress: called with the number of examples done.
    """
    losses: list[float] = []
    answers: list[tuple[int, int]] = []
    for batch in batches(examples, tokenizer, BATCH):
        labels = batch.pop("labels").to(model.device)
        logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
        losses += example_losses(logits, labels).tolist()
        if labels.ndim == 1:
            answers += zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True)
        progress(len(losses))
    right = sum(given == wanted for given, wanted in answers)
    return Score(
        loss=math.fsum(losses) / len(losses),
        accuracy=right / len(answers) if answers else math.nan,
        f1=macro_f1(answers) if answers else math.nan,
    )


def macro_f1(answers: Sequence[tuple[int, int]]) -> float:
    """F1 of every class that occurs among the answers or the labels, averaged.

    Args:
        answers: pairs of answer and label.
    """
    given, wanted = (Counter(side) for side in zip(*answers, strict=True))
    right = Counter(answer for answer, label in answers if answer == label)
    classes = given.keys() | wanted.keys()
    return math.fsum(2 * right[name] / (given[name] + wanted[name]) for name in classes) / len(classes)


@torch.inference_mode()
def exact_match(model: Any, examples: Examples, tokenizer: Any, tokens: int) -> float:
    """Share of prompts whose greedy continuation equals the reference, spaces at both ends aside.

    A prompt is what stands before the first token that the loss counts; the reference is what the loss counts after it.

    Args:
        model: a causal language model in evaluation mode.
        examples: tokenised; plain text, which has no prompt, counts as never matched.
        tokenizer: the model's own.
        tokens: the most to generate.
    """
    pairs = [_prompt(row) for row in examples.rows]
    asked = sorted((pair for pair in pairs if pair[0]), key=lambda pair: -len(pair[0]))
    right = 0
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        for start in range(0, len(asked), GENERATED):
            part = asked[start : start + GENERATED]
            padded = tokenizer.pad({"input_ids": [list(prompt) for prompt, _ in part]}, return_tensors="pt").to(model.device)
            made = model.generate(**padded, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            texts = tokenizer.batch_decode(made[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
            references = tokenizer.batch_decode([list(reference) for _, reference in part], skip_special_tokens=True)
            right += sum(text.strip() == reference.strip() for text, reference in zip(texts, references, strict=True))
    finally:
        tokenizer.padding_side = side
    return right / len(pairs)


def _prompt(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    counted = [label != -100 for label in row["labels"]]
    first = counted.index(True)
    after = counted[first:]
    last = first + (after.index(False) if False in after else len(after))
    return row["input_ids"][:first], row["input_ids"][first:last]
