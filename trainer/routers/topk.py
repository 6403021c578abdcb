"""`topk`: a softmax over the k best experts (Shazeer et al., arXiv 1701.06538)."""

from typing import TYPE_CHECKING

from spectra.core.methods import NoSettings
from trainer.routers.dense import dense
from trainer.routers.gates import Gates, RouterContext

if TYPE_CHECKING:
    from torch import Tensor


def topk(logits_TE: "Tensor", context: RouterContext, settings: NoSettings) -> Gates:
    """Softmax over the k largest logits, zero elsewhere: softmax, top-k and renormalising in one."""
    if context.top_k == logits_TE.shape[-1]:
        return dense(logits_TE, context, settings)
    chosen, experts = logits_TE.topk(context.top_k, dim=-1)
    gates = logits_TE.new_zeros(logits_TE.shape).scatter(-1, experts, chosen.softmax(-1))
    return Gates(gates, gates)
