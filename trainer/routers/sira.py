"""`sira`: top-k with a capacity limit per expert and expert dropout on the gate (SiRA, arXiv 2311.09179).

In training each expert is closed to a token with the dropout's probability before the k best are chosen, and of the tokens that
chose an expert only the first ceil(capacity k T / E) in order get it; to the others it contributes nothing. Evaluation is `topk`.
We could not read the paper's constants, the form of its dropout, nor which tokens it turns away. Closing an expert to single
tokens, turning away the later ones, the two defaults, and what follows are our choice: gates of the experts that still take a
token are not raised for those that turned it away, unless `renormalise` says so, and a token to which all experts are closed is
routed as if none were. A third-party reading has an auxiliary balance loss as part of the paper; `balance_loss` adds it.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from spectra.core.documents import Value
from spectra.core.methods import NoSettings
from trainer.routers.gates import Gates, RouterContext
from trainer.routers.topk import topk

if TYPE_CHECKING:
    from torch import Tensor

CLOSED = 1e4  # far more than any logit, yet finite: closed experts lose, but are still there if fewer than k are open
TOPKS = NoSettings()  # made once: torch.compile cannot follow how settings are made


class SiraSettings(Value):
    """The router's own settings."""

    capacity: Annotated[float, Field(gt=0, le=1000)] = 1.25
    """Maximum number of tokens per expert in training, as a multiple of an even share of the batch's tokens."""
    expert_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability that an expert is closed to a token in training."""
    renormalise: bool = False
    """Let the gates of the experts that take a token sum to 1 again after others have turned it away."""


def sira(logits_TE: "Tensor", context: RouterContext, settings: SiraSettings) -> Gates:
    """Top-k among the open experts, within their capacity."""
    if not context.training:
        return topk(logits_TE, context, TOPKS)
    closed = logits_TE.new_empty(logits_TE.shape).uniform_() < settings.expert_dropout
    picked = topk(logits_TE.where(~closed, logits_TE - CLOSED), context, TOPKS).gates
    chosen = picked > 0
    tokens_T1 = picked.new_ones((len(picked), 1))
    if context.token_mask is not None:
        tokens_T1 = tokens_T1 * context.token_mask[:, None].to(picked.dtype)
    limit = (settings.capacity * context.top_k * tokens_T1.sum() / logits_TE.shape[-1]).ceil()
    place_TE = (chosen * tokens_T1).cumsum(0)  # a token's place in its expert's queue
    gates = picked * ((place_TE <= limit) & chosen)
    if settings.renormalise:
        # Of picked's own sum, which with one expert per token is its probability; the floor is for tokens that nobody takes.
        gates = gates * picked.sum(-1, keepdim=True) / gates.sum(-1, keepdim=True).clamp(min=1e-30)
    return Gates(gates, picked)
