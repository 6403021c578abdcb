"""lm-evaluation-harness's acc and acc_norm, one choice at a time: whole text tokenised, the choice is what follows the prompt."""

import torch


def reference_picks(model, tokenizer, prompt, choices):
    """The picks of acc and of acc_norm, and each choice's summed log-likelihood."""
    likelihoods = []
    for choice in choices:
        between = "" if prompt[-1].isspace() or choice[0].isspace() else " "
        spaces = prompt[len(prompt.rstrip()) :]
        context, continuation = prompt.rstrip(), spaces + between + choice
        before, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
        after = whole[len(before) :]
        logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        likelihoods.append(sum(float(logits[len(before) + n - 1, token]) for n, token in enumerate(after)))
    per_character = [likelihood / len(choice) for likelihood, choice in zip(likelihoods, choices, strict=True)]
    return likelihoods.index(max(likelihoods)), per_character.index(max(per_character)), likelihoods
