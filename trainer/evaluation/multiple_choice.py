"""Multiple-choice questions, answered by likelihood: the choice whose tokens are most probable, per token, after the prompt."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra import InputError
from trainer.data.dataset import load_rows
from trainer.report import Score

COLUMNS = ("prompt", "choices", "answer")
BATCH = 32  # choices at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: the token ids of prompt + choice, where the choice starts, and which is right."""

    rows: tuple[tuple[list[int], int], ...]
    answer: int


def has_choices(path: Path) -> bool:
    """Whether a dataset file holds questions."""
    return path.is_file() and set(COLUMNS) <= set(load_rows(path).column_names)


def read_choices(path: Path, tokenizer: Any, max_length: int) -> list[Question]:
    """Read and tokenise questions.

    Args:
        path: rows with `prompt`, `choices` (a list of at least two texts) and `answer` (an index, or one of the choices).
        tokenizer: the model's own.
        max_length: in tokens; of longer prompts the beginning is cut.

    Raises:
        InputError: a row that is no such question.
    """
    rows = load_rows(path)
    return [_question(row, f"{path}: row {number}", tokenizer, max_length) for number, row in enumerate(rows, start=1)]


def _question(row: dict[str, Any], where: str, tokenizer: Any, max_length: int) -> Question:
    prompt, choices, answer = (row[column] for column in COLUMNS)
    choices = json.loads(choices) if isinstance(choices, str) and choices.startswith("[") else choices
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: prompt is {prompt!r}; every question needs one")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise InputError(f"{where}: choices are {choices!r}; give a list of at least two texts")
    if isinstance(answer, str):
        answer = choices.index(answer) if answer in choices else int(answer) if answer.isdigit() else -1
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise InputError(f"{where}: answer is {row['answer']!r}; give the index of the right choice, from 0, or its text")
    return Question(rows=tuple(_row(prompt, text, tokenizer, max_length) for text in choices), answer=answer)


def _row(prompt: str, choice: str, tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(choice if prompt[-1].isspace() else " " + choice, add_special_tokens=False)["input_ids"][: max_length - 1]
    kept = before[-(max_length - len(after)) :]
    return kept + after, len(kept)


@torch.inference_mode()
def choice_scores(model: Any, questions: Sequence[Question], tokenizer: Any, progress: Callable[[int], None]) -> Score:
    """Accuracy, and the mean loss per token of the right choices.

    Args:
        model: a causal language model in evaluation mode.
        questions: what to ask.
        tokenizer: the model's own.
        progress: called with the number of questions done.
    """
    flat = [(ids, start) for question in questions for ids, start in question.rows]
    losses = torch.cat([_losses(model, flat[at : at + BATCH], tokenizer) for at in range(0, len(flat), BATCH)]).tolist()
    right, wanted, position = 0, 0.0, 0
    for number, question in enumerate(questions, start=1):
        mine = losses[position : position + len(question.rows)]
        position += len(question.rows)
        right += mine.index(min(mine)) == question.answer
        wanted += mine[question.answer]
        progress(number)
    return Score(loss=wanted / len(questions), accuracy=right / len(questions))


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
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits.float().cpu()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    counted = counted[:, 1:]
    return (losses * counted).sum(1) / counted.sum(1)
