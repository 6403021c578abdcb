"""`topk`: a softmax over the k best experts (Shazeer et al., arXiv 1701.06538)."""

from typing import TYPE_CHECKING

from spectra.core.methods import NoSettings
from trainer.routers.dense import dense
from trainer.routers.gates import Gates, RouterContext

if TYPE_CHECKING:
    from torch import Tensor


def topk(logits_TE: "Tensor", context: RouterContext, settings: NoSettings) -> Gates:
    """Softmax over the k largest logits, zero elsewhere: softmax, top-k and renormalising in one.

    Of a single expert the gate is its probability among all, as in Switch (arXiv 2101.03961, eq. 2): renormalised it would be the
    constant 1, and the router would never learn.
    """
    if context.top_k == logits_TE.shape[-1]:
        return dense(logits_TE, context, settings)
    if context.top_k == 1:
        chosen, expert = logits_TE.softmax(-1).max(-1, keepdim=True)
        gates = logits_TE.new_zeros(logits_TE.shape).scatter(-1, expert, chosen)
        return Gates(gates, gates)
    chosen, experts = logits_TE.topk(context.top_k, dim=-1)
    gates = logits_TE.new_zeros(logits_TE.shape).scatter(-1, experts, chosen.softmax(-1))
    return Gates(gates, gates)
