"""The table of routers: logits in, one gate per token and expert out. A new router is one file or function and one line here.

Shapes: T tokens (any leading dimensions), E experts, k experts per token.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Router = Callable[[Tensor, int], Tensor]


def topk(logits_TE: Tensor, k: int) -> Tensor:
    """Softmax over the k largest logits, zero elsewhere.

    That is softmax, top-k and renormalising in one step (Shazeer et al., arXiv 1701.06538).

    Args:
        logits_TE: (..., E), float32 or better.
        k: experts per token, 1 <= k <= E. With k = E this is the dense softmax.

    Returns:
        Gates of the same shape and dtype; k of them are positive and they sum to 1.
    """
    if k == logits_TE.shape[-1]:
        return logits_TE.softmax(-1)
    chosen, experts = logits_TE.topk(k, dim=-1)
    return torch.zeros_like(logits_TE).scatter(-1, experts, chosen.softmax(-1))


ROUTERS: Mapping[str, Router] = {
    "topk": topk,
}
