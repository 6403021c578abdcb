"""The table of routers: logits in, one gate per token and expert out. A new router is one function and one line here.

Shapes: T tokens, E experts, k experts per token. Everything has a static shape and nothing waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterContext:
    """What a router may need to know beside the logits."""

    top_k: int
    training: bool = False
    token_mask: Tensor | None = None
    """Which tokens are no padding; None if all are."""
    capacity: float = 1.25
    """`sira`: an expert takes at most this many times its even share of the tokens."""
    expert_dropout: float = 0.1
    """`sira`: probability that an expert is closed to a token."""


class Gates(NamedTuple):
    """What a router answers, both (T, E)."""

    gates: Tensor
    """How much each expert counts for each token; 0 where it is not used."""
    picked: Tensor
    """The same before a capacity limit turned tokens away."""


Router = Callable[[Tensor, RouterContext], Gates]


def topk(logits_TE: Tensor, context: RouterContext) -> Gates:
    """Softmax over the k largest logits, zero elsewhere: softmax, top-k and renormalising in one (Shazeer et al., 1701.06538)."""
    if context.top_k == logits_TE.shape[-1]:
        return dense(logits_TE, context)
    chosen, experts = logits_TE.topk(context.top_k, dim=-1)
    gates = torch.zeros_like(logits_TE).scatter(-1, experts, chosen.softmax(-1))
    return Gates(gates, gates)


def dense(logits_TE: Tensor, context: RouterContext) -> Gates:
    """Softmax over all experts (HydraLoRA, LoRAMoE): every expert counts for every token, whatever k."""
    gates = logits_TE.softmax(-1)
    return Gates(gates, gates)


def constant(logits_TE: Tensor, context: RouterContext) -> Gates:
    """Equal gates 1/k on the k chosen experts, so that no learned weight can collapse onto one (ReMix, arXiv 2603.10160).

    ReMix trains its router by a policy gradient; here the gradient of the softmax passes straight through, which is our choice.
    """
    probabilities = logits_TE.softmax(-1)
    chosen = torch.zeros_like(logits_TE).scatter(-1, logits_TE.topk(context.top_k, dim=-1).indices, 1.0)
    gates = chosen / context.top_k
    if context.training:
        gates = gates + chosen * (probabilities - probabilities.detach())
    return Gates(gates, chosen)


def sira(logits_TE: Tensor, context: RouterContext) -> Gates:
    """Top-k with a capacity limit per expert and expert dropout on the gate (SiRA, arXiv 2311.09179).

    In training each expert is closed to a token with probability `expert_dropout` before the k best are chosen, and of the tokens
    that chose an expert only the first ceil(capacity k T / E) in order get it; to the others it contributes nothing. Evaluation
    is `topk`. The paper publishes neither constants nor the form of dropout or which tokens are turned away: closing an expert to
    single tokens, the order of tokens and the two defaults are our choice.
    """
    if not context.training:
        return topk(logits_TE, context)
    closed = torch.rand_like(logits_TE) < context.expert_dropout
    # Closed experts lose by far, but are still there if fewer than k are open.
    picked = topk(logits_TE.where(~closed, logits_TE - 1e4), context).gates
    chosen = picked > 0
    token_mask = 1.0 if context.token_mask is None else context.token_mask[:, None].to(picked.dtype)
    tokens = torch.ones_like(picked[:, :1]) * token_mask
    limit = (context.capacity * context.top_k * tokens.sum() / logits_TE.shape[-1]).ceil()
    place = (chosen * tokens).cumsum(0)
    return Gates(picked * ((place <= limit) & chosen), picked)


ROUTERS: dict[str, Router] = {
    "topk": topk,
    "sira": sira,
    "dense": dense,
    "constant": constant,
}
