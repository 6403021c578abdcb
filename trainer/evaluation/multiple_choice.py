"""Multiple-choice questions, answered by likelihood: the choice whose tokens are most probable, per token, after the prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.data.examples import Texts
from trainer.evaluation.metrics import Answers

BATCH = 32  # choices at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: the token ids of prompt + choice, where the choice starts, and which is right."""

    rows: tuple[tuple[list[int], int], ...]
    answer: int


def questions_of(texts: Texts, tokenizer: Any, max_length: int) -> list[Question]:
    """Tokenise questions.

    Args:
        texts: a file of questions.
        tokenizer: the model's own.
        max_length: in tokens; of longer prompts the beginning is cut.
    """
    return [
        Question(
            rows=tuple(_row(row["prompt"], choice, tokenizer, max_length) for choice in row["choices"]), answer=row["answer"]
        )
        for row in texts.rows
    ]


def _row(prompt: str, choice: str, tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    # Apart from the choice, so that the choice starts at a token of its own.
    before = tokenizer(prompt)["input_ids"]
    # The space between the two goes with the choice. One token of the prompt has to stay, or the choice's first would be
    # predicted by nothing.
    after = tokenizer(choice if prompt[-1].isspace() else " " + choice, add_special_tokens=False)["input_ids"][: max_length - 1]
    kept = before[-(max_length - len(after)) :]  # the end of a prompt asks the question
    return kept + after, len(kept)


@torch.inference_mode()
def picks_of(model: Any, questions: Sequence[Question], tokenizer: Any, progress: Callable[[int], None]) -> Answers:
    """The choice that a model finds most likely for every question, and the loss of the right one.

    Args:
        model: a causal language model in evaluation mode.
        questions: what to ask.
        tokenizer: the model's own.
        progress: called with the number of questions done.
    """
    flat = [(ids, start) for question in questions for ids, start in question.rows]
    owners = [number for number, question in enumerate(questions) for _ in question.rows]
    losses: list[float] = []
    for at in range(0, len(flat), BATCH):
        losses += _losses(model, flat[at : at + BATCH], tokenizer).tolist()
        progress(owners[len(losses) - 1] + (len(losses) == len(flat)))  # a question is done when its last choice is
    picks, right, position = [], [], 0
    for question in questions:
        mine = losses[position : position + len(question.rows)]
        position += len(question.rows)
        picks.append((mine.index(min(mine)), question.answer))
        right.append(mine[question.answer])
    return Answers(task="multiple-choice", losses=right, picks=picks)


def _losses(model: Any, rows: Sequence[tuple[list[int], int]], tokenizer: Any) -> Tensor:
    """Mean loss per token of each row's choice."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (tokens, start) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        counted[row, start : len(tokens)] = True
    # Padding on the right: under a causal mask no token of a choice sees it.
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits.float().cpu()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    # Shifted like the labels: position t predicts token t + 1. A mean, so that long choices are not at a disadvantage.
    counted = counted[:, 1:]
    return (losses * counted).sum(1) / counted.sum(1)
