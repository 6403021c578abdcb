"""A model's answers on tokenised examples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from planner.modules.labelled import example_losses, labelled_losses
from trainer.data.dataset import collator
from trainer.data.examples import Examples
from trainer.evaluation.batching import by_length, tokens_at_a_time
from trainer.evaluation.metrics import Answers


@torch.inference_mode()
def answers_of(model: Any, examples: Examples, tokenizer: Any, progress: Callable[[int], None]) -> Answers:
    """The loss of every example, and for a classifier the class that it picks.

    Args:
        model: in evaluation mode.
        examples: tokenised.
        tokenizer: the model's own.
        progress: called with the number of examples done.
    """
    # By position: the longest are scored first, and who compares two models example by example wants the file's order.
    losses = [0.0] * len(examples.rows)
    picked: dict[int, tuple[int, int]] = {}
    done = 0
    collate = collator(examples.task, tokenizer)
    lengths = [len(tokens) for tokens in examples.rows["input_ids"]]
    for group in by_length(lengths, tokens_at_a_time(model)):
        batch = dict(collate([examples.rows[position] for position in group]))
        labels = batch.pop("labels").to(model.device)
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        if labels.ndim == 2:
            found = labelled_losses(model, inputs, labels)
        else:
            logits = model(**inputs).logits
            found = example_losses(logits, labels)
            picked |= zip(group, zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True), strict=True)
        for position, loss in zip(group, found.tolist(), strict=True):
            losses[position] = loss
        done += len(group)
        progress(done)
    picks = [picked[position] for position in sorted(picked)]
    return Answers(task=examples.task, losses=losses, picks=picks)


@torch.inference_mode()
def with_generated(
    answers: Answers,
    model: Any,
    examples: Examples,
    tokenizer: Any,
    tokens: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Answers:
    """The answers with greedy continuations of all prompts.

    A prompt is what stands before the first token that the loss counts; the reference is what the loss counts after it. Plain
    text, which has no prompt, gets an empty continuation of a reference that is not, and so never matches.

    Args:
        answers: to add to.
        model: a causal language model in evaluation mode.
        examples: tokenised.
        tokenizer: the model's own.
        tokens: the most to generate.
        progress: called with the number of prompts that are answered.
    """
    pairs = [prompt_of(row) for row in examples.rows]
    generated = [("", "without a prompt")] * len(pairs)
    prompts = [""] * len(pairs)
    asked = [position for position, (prompt, _) in enumerate(pairs) if prompt]
    side, tokenizer.padding_side = tokenizer.padding_side, "left"  # what is generated must follow the prompt, not its padding
    done = len(pairs) - len(asked)
    ends = _ends(model, tokenizer, [reference for _, reference in pairs])
    written = partial(tokenizer.batch_decode, skip_special_tokens=True)
    try:
        # By length, to pad little, and fewer at a time than are scored: each keeps a cache.
        for group in by_length([len(pairs[position][0]) for position in asked], tokens_at_a_time(model) // 2):
            part = [asked[position] for position in group]
            padded = tokenizer.pad({"input_ids": [list(pairs[n][0]) for n in part]}, return_tensors="pt").to(model.device)
            made = model.generate(
                **padded, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=ends
            )
            # All prompts of a part end at the same column, because they are padded on the left.
            texts = written(made[:, padded["input_ids"].shape[1] :])
            references = written([list(pairs[n][1]) for n in part])
            for n, text, reference, prompt in zip(
                part, texts, references, written([list(pairs[n][0]) for n in part]), strict=True
            ):
                generated[n], prompts[n] = (text, reference), prompt
            done += len(part)
            progress(done)
    finally:
        tokenizer.padding_side = side
    return replace(answers, generated=generated, prompts=prompts)


def _ends(model: Any, tokenizer: Any, references: Sequence[Sequence[int]]) -> list[int] | None:
    """The tokens at which an answer ends: those of the model's settings, and those that references end with.

    A chat template may end answers with a mark that the model's settings, made before it was trained on it, do not know.
    """
    own = model.generation_config.eos_token_id
    known = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    marks = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted((known | {reference[-1] for reference in references if reference[-1] in marks}) - {None}) or None


def prompt_of(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The token ids before the first that the loss counts, and of what it counts there without a gap."""
    counted = [label != -100 for label in row["labels"]]
    first = counted.index(True)
    after = counted[first:]
    last = first + (after.index(False) if False in after else len(after))
    return row["input_ids"][:first], row["input_ids"][first:last]
