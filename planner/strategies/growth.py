"""DR-LoRA's rule of growth: who earns the next rank, and how much is handed out when (arXiv 2601.04823).

The saliency of expert i is S_i = f_i g_i / (r_i + 1)^gamma. Experts start with little rank; at each of a number of events a layer
shares out its quota to the most salient. `trainer.training.growth` does it with signals that change while a model trains; a plan
by `dr-lora` does it here with signals that stand still, so that it is where growth under these would end.
"""

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Annotated, Literal

from pydantic import Field

from spectra.core.documents import Value

Whole = Annotated[int, Field(ge=1, lt=2**31)]


class GrowthRule(Value):
    """How ranks are handed out. Defaults are those of the published setting, where it is known."""

    growth_events: Annotated[int, Field(ge=1, lt=2**31)] = 18
    """Number of times that experts grow."""
    growth_penalty: Annotated[float, Field(ge=0, le=100)] = 1.2
    """Exponent of the rank in the saliency's denominator."""
    growth_per_event: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of its room that an expert gains at most at one event, the last one aside."""
    growth_start: Whole | None = None
    """Rank that experts start with. Default half of the mean that they end with, at least 1."""
    growth_most: Whole | None = None
    """Maximum rank of an expert. Default twice the mean that they end with."""
    growth_tokens: Literal["learned", "all"] = "learned"
    """Tokens over which an expert's share of routing counts: those whose output a label is compared with, or all."""
    growth_handout: Literal["one-by-one", "one-pass"] = "one-by-one"
    """How an event's ranks are handed out: one at a time to whoever is then most salient, or in one pass over the experts as the released code does."""  # noqa: E501

    def start_of(self, target: int, experts: int) -> int:
        """The rank that experts start with: half of the mean, as DR-LoRA's 8 of 16."""
        return self.growth_start or max(1, int(target / experts / 2))

    def most_of(self, target: int, experts: int) -> int:
        """The rank that an expert can reach: twice the mean, as DR-LoRA's 32 of 16."""
        return self.growth_most or 2 * -(-target // experts)


def saliency(weight: float, rank: int, penalty: float) -> float:
    """S of an expert with share times importance `weight` = f g."""
    return float(weight / (rank + 1) ** penalty)


def hand_out(
    rule: GrowthRule,
    weights: Sequence[float],
    shares: Sequence[float],
    ranks: Sequence[int],
    quota: int,
    *,
    most: int,
    per_event: int,
) -> list[int]:
    """Share out a quota among a layer's experts.

    Args:
        rule: the penalty, and how it is handed out.
        weights: f g of each expert.
        shares: f of each expert, which decides in the place of f g among equals; after it the lower number does.
        ranks: what each has.
        quota: ranks to share out.
        most: the largest rank of an expert.
        per_event: the most that one expert may gain now.

    Returns:
        The new ranks; the quota may not be used up where limits forbid.
    """
    grown = list(ranks)

    def standing(expert: int) -> tuple[float, float, int]:
        """A place in the queue, the most salient first."""
        worth, share = (saliency(of[expert], grown[expert], rule.growth_penalty) for of in (weights, shares))
        return -worth, -share, expert

    if rule.growth_handout == "one-pass":
        # As released: sorted once, and each takes what it may before the next is asked.
        for _, _, expert in sorted(map(standing, range(len(grown)))):
            taken = max(0, min(per_event, most - grown[expert], quota))
            grown[expert] += taken
            quota -= taken
        return grown
    # Rank by rank and not in proportion: each rank gained makes an expert's next one worth less, as the denominator says.
    queue = [standing(expert) for expert in range(len(grown)) if grown[expert] < most]
    heapify(queue)
    while quota > 0 and queue:
        _, _, expert = heappop(queue)
        grown[expert] += 1
        quota -= 1
        if grown[expert] < most and grown[expert] - ranks[expert] < per_event:
            heappush(queue, standing(expert))
    return grown


def ranks_after(
    rule: GrowthRule,
    weights: Sequence[float],
    shares: Sequence[float],
    ranks: Sequence[int],
    done: int,
    *,
    target: int,
    start: int,
    most: int,
    events: int,
) -> list[int]:
    """A layer's ranks after an event: its quota brings the layer to its share of the way, exactly to the target at the last one.

    Args:
        rule: how ranks are handed out.
        weights: f g of each expert; where all are zero nothing is known yet, and all but the last event wait.
        shares: f of each expert.
        ranks: what each has.
        done: events up to and with this one.
        target: ranks of all experts together at the end.
        start: the rank that each began with.
        most: the largest rank of an expert.
        events: number in the whole run.
    """
    if done < events and not any(weights):
        return list(ranks)
    begun = len(ranks) * start
    # Whole numbers, counted from the beginning: rounding does not add up, and at done = events this is the target.
    way = begun + (target - begun) * done // events
    # At the last event the limit is off, or what earlier limits left over could never be shared out.
    limit = most if done == events else max(1, math.ceil(rule.growth_per_event * (most - start)))
    return hand_out(rule, weights, shares, ranks, way - sum(ranks), most=most, per_event=limit)


def grown(rule: GrowthRule, weights: Sequence[float], shares: Sequence[float], *, target: int, most: int) -> list[int]:
    """Where growth under signals that stand still ends.

    Args:
        rule: how ranks are handed out.
        weights: f g of each expert.
        shares: f of each expert.
        target: ranks of all experts together, at least one each.
        most: the largest rank that an expert's matrices leave room for.
    """
    experts = len(weights)
    most = min(most, rule.most_of(target, experts))
    start = min(most, target // experts, rule.start_of(target, experts))
    ranks = [start] * experts
    for done in range(1, rule.growth_events + 1):
        ranks = ranks_after(rule, weights, shares, ranks, done, target=target, start=start, most=most, events=rule.growth_events)
    return ranks
