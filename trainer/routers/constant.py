"""`constant`: equal gates on the k best experts, so that no learned weight can collapse onto one (ReMix, arXiv 2603.10160).

ReMix trains its router by a policy gradient. Here the gradient of the softmax passes straight through, which is our choice.
"""

from typing import TYPE_CHECKING

from spectra.core.methods import NoSettings
from trainer.routers.gates import Gates, RouterContext

if TYPE_CHECKING:
    from torch import Tensor


def constant(logits_TE: "Tensor", context: RouterContext, settings: NoSettings) -> Gates:
    """Gates 1/k on the k largest logits, zero elsewhere."""
    probabilities = logits_TE.softmax(-1)
    chosen = logits_TE.new_zeros(logits_TE.shape).scatter(-1, logits_TE.topk(context.top_k, dim=-1).indices, 1.0)
    gates = chosen / context.top_k
    if context.training:
        # Straight through: zero in value, the softmax's gradient for the experts that were chosen.
        gates = gates + chosen * (probabilities - probabilities.detach())
    return Gates(gates, chosen)
