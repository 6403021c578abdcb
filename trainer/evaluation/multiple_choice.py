"""Multiple-choice questions, answered by likelihood as lm-evaluation-harness does.

`accuracy` counts where the right choice has the largest log-likelihood after the prompt (its `acc`), `acc_norm` where it has
the largest one per character. A question is one row: the prompt, computed once, and behind it every choice, none of which sees
another.

    the capital of France is | is Paris | is Rome        the prompt's last token again before each choice, which predicts
    0   1       2  3      4  | 4  5     | 4  5           its first; positions go on from the prompt
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from planner.modules.attention import NAME as PRODUCTS
from planner.modules.labelled import token_losses
from spectra import InputError
from spectra.core.log import LOG
from trainer.data.chat import Segment, Writer
from trainer.data.examples import Texts
from trainer.data.fitting import is_enough, letters
from trainer.data.joints import token_ids
from trainer.data.tokenize import lead_of
from trainer.evaluation.batching import by_length, tokens_at_a_time
from trainer.evaluation.metrics import Answers
from trainer.settings import DataSettings

TAKE_MASKS = (PRODUCTS, "sdpa", "eager")  # attention that takes a ready mask
ALIKE, ALIKE_IN_HALF = 1e-3, 0.05  # of a choice's loss: what packing may change it by; rounding changes less, another mask more


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: token ids of the prompt and of every choice, the choices' lengths in characters, and which is right."""

    prompts: tuple[tuple[int, ...], ...]
    """Before each choice; they differ only where the tokenizer melts a choice with the prompt's end."""
    choices: tuple[tuple[int, ...], ...]
    characters: tuple[int, ...]
    answer: int

    @property
    def shared(self) -> bool:
        """Whether all choices follow the same prompt."""
        return len(set(self.prompts)) == 1

    @property
    def length(self) -> int:
        """Tokens of its row."""
        return len(self.prompts[0]) - 1 + sum(len(choice) + 1 for choice in self.choices)


def questions_of(texts: Texts, tokenizer: Any, max_length: int, chat: DataSettings | None = None) -> list[Question]:
    """Tokenise questions.

    Args:
        texts: a file of questions.
        tokenizer: the model's own.
        max_length: in tokens, of a prompt and one choice; of longer prompts the beginning is cut.
        chat: how conversations are written, for a model that has learned them: it is asked as they ask.

    Raises:
        InputError: a prompt or a choice of which the tokenizer makes nothing.
    """
    found = []
    writer = Writer(tokenizer, chat.model_copy(update={"loss_on": "completion"})) if chat else None
    for row in texts.rows:
        try:
            question = _question(row, tokenizer, max_length, writer)
        except InputError as fault:
            raise InputError(f"{texts.path}: row {row['row']}: {fault}") from None
        if not all(question.choices) or not all(question.prompts):
            what = "a choice" if all(question.prompts) else "the prompt"
            raise InputError(f"{texts.path}: row {row['row']}: the tokenizer makes no token of {what}; change or remove it")
        found.append(question)
    return found


def _question(row: Any, tokenizer: Any, max_length: int, writer: Writer | None) -> Question:
    if writer is None:
        pairs = [_pair(row["prompt"], choice, tokenizer, max_length) for choice in row["choices"]]
    else:
        pairs = [_chat_pair(row["prompt"], choice, writer, max_length) for choice in row["choices"]]
    return Question(
        prompts=tuple(tuple(before) for before, _ in pairs),
        choices=tuple(tuple(after) for _, after in pairs),
        characters=tuple(map(len, row["choices"])),
        answer=row["answer"],
    )


def _chat_pair(prompt: str, choice: str, writer: Writer, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids of a prompt as a user's turn, up to where the answer's words begin, and of the choice there."""
    example = [Segment(text, False) for text in writer.asking(prompt, choice)]
    before, after = next(token_ids([example], writer.tokenizer))
    if writer.template is None:
        before = [*lead_of(writer.tokenizer), *before]
    after = after[: max_length - 1]
    return before[-(max_length - len(after)) :], after


def _pair(prompt: str, choice: str, tokenizer: Any, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the choice behind it."""
    bare = prompt.rstrip()
    # Spaces at the prompt's end go with the choice, as tokenizers expect; where neither brings one, there is one between them.
    joined = prompt[len(bare) :] + choice if bare != prompt or choice[:1].isspace() else " " + choice
    # Of a prompt of megabytes only the end is looked at, if it is long enough.
    end = bare[-letters(max_length) :]
    if end != bare and is_enough(len(tokenizer(end, verbose=False)["input_ids"]), max_length):
        bare = end
    before, whole = (tokenizer(text, verbose=False)["input_ids"] for text in (bare, bare + joined))
    # Some tokenizers close every text with a token of their own, which must not stand between the two.
    begins = whole[: len(before)] == before
    after = whole[len(before) :] if begins else tokenizer(joined, add_special_tokens=False)["input_ids"]
    # One token of the prompt has to stay, or the choice's first would be predicted by nothing. A prompt's end asks the question.
    after = after[: max_length - 1]
    return before[-(max_length - len(after)) :], after


@torch.inference_mode()
def picks_of(model: Any, questions: Sequence[Question], tokenizer: Any, progress: Callable[[int], None]) -> Answers:
    """The choice that a model finds most likely for every question, and the loss of the right one per token.

    Args:
        model: a causal language model in evaluation mode.
        questions: what to ask.
        tokenizer: the model's own.
        progress: called with the number of questions done.
    """
    lengths = [question.length for question in questions]
    ask = _packed if _can_pack(model, max(questions, key=lambda question: question.length), tokenizer) else _apart
    sums: list[list[float]] = [[] for _ in questions]
    done = 0
    for group in by_length(lengths, tokens_at_a_time(model)):
        for position, found in zip(group, ask(model, [questions[position] for position in group], tokenizer), strict=True):
            sums[position] = found
        done += len(group)
        progress(done)
    picks, normalised, losses = [], [], []
    for question, found in zip(questions, sums, strict=True):
        per_character = [loss / count for loss, count in zip(found, question.characters, strict=True)]
        picks.append((found.index(min(found)), question.answer))
        normalised.append((per_character.index(min(per_character)), question.answer))
        losses.append(found[question.answer] / len(question.choices[question.answer]))
    return Answers(task="multiple-choice", losses=losses, picks=picks, normalised=normalised)


def _can_pack(model: Any, question: Question, tokenizer: Any) -> bool:
    """Whether a model reads choices side by side as it reads them one by one, found out on a question."""
    # A state that runs along the tokens goes from one choice into the next, whatever the mask.
    if getattr(model, "_is_stateful", False) or model.config._attn_implementation not in TAKE_MASKS:
        return False
    packed, apart = (ask(model, [question], tokenizer)[0] for ask in (_packed, _apart))
    allowed = ALIKE_IN_HALF if model.dtype in (torch.bfloat16, torch.float16) else ALIKE
    alike = all(abs(one - other) <= allowed * max(1.0, other) for one, other in zip(packed, apart, strict=True))
    if not alike:
        LOG.info("%s takes no mask between choices, so they are scored one by one", type(model).__name__)
    return alike


def _packed(model: Any, questions: Sequence[Question], tokenizer: Any) -> list[list[float]]:
    """The summed loss of every choice of some questions, each question one row."""
    if not all(question.shared for question in questions):
        return _apart(model, questions, tokenizer)
    rows = [_row(question) for question in questions]
    ids, labels, owners, positions = (_padded(part, fill) for part, fill in zip(zip(*rows, strict=True), FILLS, strict=True))
    ids = ids.masked_fill(owners < 0, tokenizer.pad_token_id)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": choices_mask(owners)}
    device = model.device
    losses, row = token_losses(model, {name: part.to(device) for name, part in inputs.items()}, labels.to(device))
    owner = owners[:, 1:][labels[:, 1:] != -100]
    most = max(len(question.choices) for question in questions)
    sums = torch.zeros(len(questions) * most, dtype=torch.float64)
    sums.index_add_(0, row.cpu() * most + owner - 1, losses.double().cpu())
    return [found[: len(question.choices)] for question, found in zip(questions, sums.view(-1, most).tolist(), strict=True)]


FILLS = (0, -100, -1, 0)  # of a row's padding: ids, labels, owners, positions


def _row(question: Question) -> tuple[list[int], list[int], list[int], list[int]]:
    """Token ids, labels, owners (0 for the prompt, then the number of the choice) and positions of a question."""
    *prompt, last = question.prompts[0]
    ids, labels, owners, positions = prompt, [-100] * len(prompt), [0] * len(prompt), list(range(len(prompt)))
    for number, choice in enumerate(question.choices, start=1):
        ids = [*ids, last, *choice]
        labels += [-100, *choice]
        owners += [number] * (len(choice) + 1)
        positions += range(len(prompt), len(prompt) + len(choice) + 1)
    return ids, labels, owners, positions


def choices_mask(owner_BT: Tensor) -> Tensor:
    """The additive mask under which a token sees the prompt and what is before it in its own choice.

    Args:
        owner_BT: (batch, tokens): 0 for the prompt, 1, 2, ... for choices, -1 for padding.

    Returns:
        (batch, 1, tokens, tokens), float32: 0 where the second token is seen by the first.
    """
    tokens = owner_BT.shape[1]
    sees, seen = owner_BT[:, :, None], owner_BT[:, None, :]
    allowed_BTT = ((seen == 0) | (seen == sees)) & (seen >= 0) & torch.ones(tokens, tokens, dtype=torch.bool).tril()
    # Padding sees its row's first token, because a softmax over nothing is NaN, and not itself, by which it is known.
    allowed_BTT[:, :, 0] |= owner_BT < 0
    return torch.zeros(allowed_BTT.shape).masked_fill(~allowed_BTT, torch.finfo(torch.float32).min)[:, None]


def _apart(model: Any, questions: Sequence[Question], tokenizer: Any) -> list[list[float]]:
    """The summed loss of every choice of some questions, each choice a row with a prompt of its own."""
    pairs = [pair for question in questions for pair in zip(question.prompts, question.choices, strict=True)]
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for group in by_length([len(before) + len(after) for before, after in pairs], tokens_at_a_time(model)):
        chosen = [pairs[position] for position in group]
        ids = _padded([[*before, *after] for before, after in chosen], tokenizer.pad_token_id)
        labels = _padded([[-100] * len(before) + list(after) for before, after in chosen], -100)
        mask = _padded([[1] * (len(before) + len(after)) for before, after in chosen], 0)
        # Padding on the right: under a causal mask no token of a choice sees it.
        inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
        losses, row = token_losses(model, inputs, labels.to(model.device))
        sums.index_add_(0, torch.tensor(group)[row.cpu()], losses.double().cpu())
    counts = [len(question.choices) for question in questions]
    return [sums[end - count : end].tolist() for count, end in zip(counts, accumulate(counts), strict=True)]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
