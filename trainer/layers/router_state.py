"""State that the mixtures of one model share while it runs: which tokens are padding, auxiliary losses, how experts are used."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.report import RouterHealth
from trainer.routers import Gates
from trainer.settings import MixtureSettings


class RouterState:
    """Shared by all mixtures and routed experts of a model.

    Before every forward pass of the model it learns the padding mask and forgets the previous pass; during the pass each mixture
    adds its auxiliary loss, inside the autograd graph.
    """

    def __init__(self, settings: MixtureSettings) -> None:
        """Start with nothing known."""
        self.settings = settings
        self.token_mask: Tensor | None = None
        self.learned_mask: Tensor | None = None
        """(batch, tokens), whose outputs a label is compared with; None where that is not known, as for a classifier."""
        self.recording = False
        """Whether mixtures note how they route; it costs a little, so training turns it on for the steps that are logged."""
        self.counting = False
        """Whether the use of experts is summed up from pass to pass, which growth needs."""
        self.counts_learned, self.counts_softmax = True, False
        """What is summed up: at learned tokens or at all; the weights of the chosen experts or the whole softmax."""
        self._losses: list[Tensor] = []
        self._sums: dict[str, _Sums] = {}
        self._usage: dict[str, Tensor] = {}

    def begin(self, _model: Any, _arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A forward pre-hook for the model."""
        # Layers that the backward pass recomputed have added theirs once more, after `loss` had taken them.
        self._losses = []
        self.token_mask = token_mask(keywords.get("attention_mask"))

    def observe(self, site: str, logits_TE: Tensor, gates: Gates, mask_T: Tensor | None) -> None:
        """Take note of one mixture's pass in training: its auxiliary loss, and what is recorded or counted."""
        if self.settings.balance_loss or self.settings.z_loss:
            self._losses.append(self._auxiliary(logits_TE, gates, mask_T))
        learned_T = learned_for(self, len(logits_TE), mask_T)
        if self.recording:
            with torch.no_grad():
                self._sums.setdefault(site, _Sums()).add(logits_TE.detach(), gates, mask_T, learned_T)
        if self.counting:
            # As picked: a token that a capacity limit turned away counts for the expert that it wanted.
            weights = logits_TE.softmax(-1) if self.counts_softmax else gates.picked
            self.count(site, weights.detach(), mask_T)

    def observe_experts(self, name: str, index: Tensor, weights: Tensor, experts: int) -> None:
        """Take note of one pass of a layer of routed experts in training.

        Args:
            name: of the layer.
            index: (T, k), the chosen experts.
            weights: (T, k), their routing weights.
            experts: how many there are.
        """
        if not self.recording and (not self.counting or self.counts_softmax):
            return
        with torch.no_grad():
            # (T, E) would be large for hundreds of experts, so what is masked is summed up by expert at once.
            mask_T = mask_for(self, len(index))
            real, learned = (_by_expert(index, weights, one, experts) for one in (mask_T, learned_for(self, len(index), mask_T)))
            if self.recording:
                self._sums.setdefault(name, _Sums()).add_experts(real, learned)
            if self.counting and not self.counts_softmax:
                self.add_usage(name, learned if self.counts_learned else real)

    def count(self, name: str, weights_TE: Tensor, mask_T: Tensor | None) -> None:
        """Sum up the weights of one pass where they count."""
        kept_T = learned_for(self, len(weights_TE), mask_T) if self.counts_learned else mask_T
        self.add_usage(name, (weights_TE if kept_T is None else weights_TE * kept_T[:, None]).sum(0))

    def _auxiliary(self, logits_TE: Tensor, gates: Gates, mask_T: Tensor | None) -> Tensor:
        """One mixture's weighted balance loss and z-loss."""
        loss = torch.zeros((), dtype=logits_TE.dtype, device=logits_TE.device)
        if self.settings.balance_loss:
            loss = loss + self.settings.balance_loss * balance_loss(logits_TE, gates.picked, mask_T)
        if self.settings.z_loss:
            loss = loss + self.settings.z_loss * z_loss(logits_TE, mask_T)
        return loss

    def loss(self) -> Tensor | None:
        """The mean of the mixtures' auxiliary losses in the last forward pass, once; recomputed layers do not count again."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).mean() if losses else None

    def health(self) -> tuple[RouterHealth, ...]:
        """How every recorded mixture has routed since the last call."""
        sums, self._sums = self._sums, {}
        return tuple(found.health(site) for site, found in sums.items())

    def add_usage(self, name: str, weight_E: Tensor) -> None:
        """Add the routing weight that each expert of a module got in one pass."""
        before = self._usage.get(name)
        self._usage[name] = weight_E if before is None else before + weight_E

    def take_usage(self, name: str) -> Tensor | None:
        """Routing weight of each expert of a module since the last call, (E,)."""
        return self._usage.pop(name, None)


@dataclass(slots=True)
class _Sums:
    """Running sums over tokens."""

    # They begin as numbers and become tensors on the model's device, which are read only in `health`: recording waits for no GPU.
    gate: Tensor | float = 0.0
    learned: Tensor | float = 0.0
    unserved: Tensor | float = 0.0
    entropy: Tensor | float = 0.0
    tokens: Tensor | float = 0.0
    picks: Tensor | float = 0.0
    dropped: Tensor | float = 0.0

    def add(self, logits_TE: Tensor, gates: Gates, mask_T: Tensor | None, learned_T: Tensor | None) -> None:
        weight = _weights(logits_TE, mask_T)
        self.learned = self.learned + (gates.picked * _weights(logits_TE, learned_T)).sum(0)
        self.unserved = self.unserved + ((gates.gates == 0).all(-1, keepdim=True) * weight).sum()
        probabilities = logits_TE.softmax(-1)
        self.gate = self.gate + (gates.picked * weight).sum(0)
        # xlogy, because a probability may underflow to zero, where p log p is 0 and not NaN.
        self.entropy = self.entropy - (torch.xlogy(probabilities, probabilities) * weight).sum()
        self.tokens = self.tokens + weight.sum()
        self.picks = self.picks + ((gates.picked > 0) * weight).sum()
        self.dropped = self.dropped + ((gates.picked > 0) & (gates.gates == 0)).mul(weight).sum()

    def add_experts(self, gate_E: Tensor, learned_E: Tensor) -> None:
        """Routed experts of the base, whose router's logits are not at hand."""
        self.gate, self.learned = self.gate + gate_E, self.learned + learned_E
        self.entropy = self.dropped = self.unserved = math.nan

    def health(self, site: str) -> RouterHealth:
        tokens = float(self.tokens)
        shares, learned = _shares(self.gate), _shares(self.learned)
        spread = -torch.xlogy(shares, shares).sum()
        return RouterHealth(
            site=site,
            shares=tuple(shares.tolist()),
            learned_shares=tuple(learned.tolist()),
            entropy=float(self.entropy) / max(tokens, 1.0) / math.log(len(shares)),
            effective_support=float(spread.exp()),
            dropped=float(self.dropped) / max(float(self.picks), 1.0),
            unserved=float(self.unserved) / max(tokens, 1.0),
        )


def _shares(gate_E: Tensor | float) -> Tensor:
    """Over their sum; all zero where every token was padding."""
    gate = torch.as_tensor(gate_E).double().cpu()
    return gate / gate.sum().clamp(min=1e-30)


def _by_expert(index: Tensor, weights: Tensor, mask_T: Tensor | None, experts: int) -> Tensor:
    """Routing weight that each expert gets from the tokens that count, (E,)."""
    # In single precision or better: a sum of thousands of tokens in half precision stops growing.
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    kept = wide if mask_T is None else wide * mask_T[:, None].to(wide.dtype)
    seen = torch.zeros(experts, dtype=wide.dtype, device=wide.device)
    return seen.index_add(0, index.reshape(-1), kept.reshape(-1))


def mask_for(state: RouterState | None, tokens: int) -> Tensor | None:
    """The padding mask, (tokens,), for a module that sees so many tokens.

    None for a module that sees another number of them than the model's input has, such as one that runs on pooled states: the
    mask says nothing about those.
    """
    if state is None or state.token_mask is None or state.token_mask.numel() != tokens:
        return None
    return state.token_mask.reshape(-1)


def learned_for(state: RouterState | None, tokens: int, mask_T: Tensor | None) -> Tensor | None:
    """Which of a module's tokens are learned, (tokens,); those that are no padding where that is not known."""
    if state is None or state.learned_mask is None or state.learned_mask.numel() != tokens:
        return mask_T
    return state.learned_mask.reshape(-1)


def token_mask(mask: Tensor | None) -> Tensor | None:
    """Which tokens are no padding, from an attention mask.

    Args:
        mask: (batch, tokens), or a ready 4-D mask (batch, 1, tokens, tokens), where a token that may not see itself is padding.

    Returns:
        (batch, tokens) of booleans, or None if there is no mask.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        return None
    if mask.ndim == 2:
        return mask.bool()
    seen = mask[:, 0].diagonal(dim1=-2, dim2=-1)
    # A mask that is added to the attention logits holds 0 where a token is seen and a large negative number elsewhere.
    return seen if seen.dtype == torch.bool else seen == 0


def balance_loss(logits_TE: Tensor, picked_TE: Tensor, mask_T: Tensor | None) -> Tensor:
    """E sum_e f_e P_e, with f_e the share of picks and P_e the mean probability of expert e (Switch, arXiv 2101.03961, eq. 4).

    Args:
        logits_TE: (T, E).
        picked_TE: (T, E), positive where the expert was picked.
        mask_T: which tokens count.

    Returns:
        A scalar, 1 when picks are even.
    """
    weight = _weights(logits_TE, mask_T)
    # Counting picks has no gradient, so the loss pulls on the router through the mean probabilities alone, as in Switch.
    picks = ((picked_TE > 0) * weight).sum(0)
    probability = (logits_TE.softmax(-1) * weight).sum(0) / weight.sum().clamp(min=1)
    return logits_TE.shape[-1] * (picks / picks.sum().clamp(min=1) * probability).sum()


def z_loss(logits_TE: Tensor, mask_T: Tensor | None) -> Tensor:
    """Mean squared log-partition of the router (ST-MoE, arXiv 2202.08906, eq. 5); shapes as in `balance_loss`."""
    weight = _weights(logits_TE, mask_T)[:, 0]
    return (logits_TE.logsumexp(-1).square() * weight).sum() / weight.sum().clamp(min=1)


def _weights(logits_TE: Tensor, mask_T: Tensor | None) -> Tensor:
    """(T, 1): 1 for tokens that count."""
    return torch.ones_like(logits_TE[:, :1]) if mask_T is None else mask_T[:, None].to(logits_TE.dtype)
