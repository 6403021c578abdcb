"""A model's logits on a fixed row of tokens: noted when it is saved, compared when it is loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from spectra import InputError
from spectra.core.documents import Value
from trainer.run_folder import CONFIG
from trainer.settings import Exact

TOKENS = 16


# Of the largest logit: beyond rounding on another machine, far below any wrong weight. One rounding of bfloat16 is 0.004.
TOLERANCE: Mapping[Exact, float] = {"fp32": 1e-3, "bf16": 3e-2}


class ReferenceLogits(Value):
    """A fixed row of tokens and a model's logits on it: of the classes, or of the vocabulary's first tokens."""

    ids: tuple[int, ...]
    logits: tuple[float, ...]


@torch.no_grad()
def reference_logits(model: Any) -> ReferenceLogits:
    """Run a fixed row of tokens through a model, in the precision of its weights."""
    text = model.config.get_text_config()
    # Spread over the vocabulary by arithmetic, which is the same in every version of every library.
    ids = [(97 * position + 11) % text.vocab_size for position in range(TOKENS)]
    # A classifier on a decoder finds the last token by the padding token, which must not stand in the row.
    ids = [(token + 1) % text.vocab_size if token == text.pad_token_id else token for token in ids]
    training = model.training
    model.eval()
    row = torch.tensor([ids], device=next(model.parameters()).device)
    logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
    model.train(training)
    # (1, classes) of a classifier, (1, tokens, vocabulary) of a language model, whose last token has seen the whole row.
    last = logits[0] if logits.ndim == 2 else logits[0, -1]
    return ReferenceLogits(ids=tuple(ids), logits=tuple(last[:TOKENS].float().cpu().tolist()))


def require_same_logits(model: Any, noted: ReferenceLogits | None, precisions: Iterable[Exact], path: Path) -> None:
    """Compare a loaded model's logits with those that were noted when it was saved; the precisions are of now and then.

    Raises:
        InputError: they differ by more than rounding.
    """
    if noted is not None and (found := len(reference_logits(model).logits)) != len(noted.logits):
        raise InputError(f"{path.with_name(CONFIG)}: notes {len(noted.logits)} logits, and the loaded model has {found}")
    # Written as "not small" instead of "large", so that logits of NaN fail as well.
    if noted is not None and not (error := disagreement(reference_logits(model), noted)) <= max(
        TOLERANCE[one] for one in precisions
    ):
        raise InputError(
            f"{path}: the loaded model's logits differ by {error:.3g} of the largest from those noted then; wrong base model?"
        )


def disagreement(one: ReferenceLogits, other: ReferenceLogits) -> float:
    """Largest difference of two models' logits on one row, relative to the largest logit or 1."""
    pairs = list(zip(one.logits, other.logits, strict=True))
    return max(abs(a - b) for a, b in pairs) / max(1.0, *(abs(b) for _, b in pairs))
