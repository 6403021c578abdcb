"""DR-LoRA's greedy growth written from the formula: at every single rank, the saliency of every expert anew."""

import math


def reference_growth(worth, ranks, quota, most, per_event, gamma=1.2):
    """Ranks after handing out a quota; `worth[i]` is f_i * g_i."""
    grown = list(ranks)
    for _ in range(quota):
        saliency = []
        for expert, value in enumerate(worth):
            full = grown[expert] >= most or grown[expert] - ranks[expert] >= per_event
            saliency.append(float("-inf") if full else value / (grown[expert] + 1) ** gamma)
        best = max(saliency)
        if best == float("-inf"):
            break
        grown[saliency.index(best)] += 1
    return grown


class ReferenceGrowth:
    """One layer's growth, step by step in plain Python; nothing of the product is used.

    Each step takes `routing`, per token the logits over experts, the chosen experts and their weights, and whether the token
    counts; and `factors`, projection -> per expert A, dA, B, dB as nested lists, of the active rank dimensions or more.
    """

    def __init__(self, experts, target, *, handout, share, saliency, reset, events, per_event=0.1, gamma=1.2, beta=0.9):
        self.experts, self.target, self.events = experts, target, events
        self.start, self.most = max(1, int(target / experts / 2)), 2 * math.ceil(target / experts)
        self.per_event = per_event
        self.handout, self.share_form, self.form, self.reset = handout, share, saliency, reset
        self.gamma, self.beta = gamma, beta
        self.ranks, self.done = [self.start] * experts, 0
        self.forget()

    def forget(self):
        self.share, self.scores = None, {}

    def step(self, routing, factors):
        used = [0.0] * self.experts
        for logits, chosen, weights, counts in routing:
            if not counts:
                continue
            if self.share_form == "softmax":
                top = max(logits)
                exps = [math.exp(value - top) for value in logits]
                used = [before + value / sum(exps) for before, value in zip(used, exps, strict=True)]
            else:
                for expert, weight in zip(chosen, weights, strict=True):
                    used[expert] += weight
        before = self.share or [1 / self.experts] * self.experts
        self.share = [self.beta * old + (1 - self.beta) * new / sum(used) for old, new in zip(before, used, strict=True)]
        for part, experts in factors.items():
            for expert, (A, dA, B, dB) in enumerate(experts):
                for dimension in range(len(A)):
                    of_A = [a * g for a, g in zip(A[dimension], dA[dimension], strict=True)]
                    of_B = [row[dimension] * gradient[dimension] for row, gradient in zip(B, dB, strict=True)]
                    if self.form == "absolute":
                        pull = sum(map(abs, of_A)) * sum(map(abs, of_B))
                    else:
                        sides = abs(sum(of_A)), abs(sum(of_B))
                        pull = sides[0] * sides[1] if self.form == "paper" else sides[0] + sides[1]
                    key = part, expert, dimension
                    self.scores[key] = self.beta * self.scores.get(key, 0.0) + (1 - self.beta) * pull

    def event(self):
        self.done += 1
        parts = {part for part, _, _ in self.scores}
        worth = []
        for expert, rank in enumerate(self.ranks):
            means = [
                sum(self.scores.get((part, expert, d), 0.0) for d in range(self.most)) / max(1, rank) for part in sorted(parts)
            ]
            worth.append((self.share[expert] if self.share else 0.0) * (sum(means) / len(means) if means else 0.0))
        due = self.experts * self.start + (self.target - self.experts * self.start) * self.done // self.events
        last = self.done == self.events
        limit = self.most if last else max(1, math.ceil(self.per_event * (self.most - self.start)))
        if any(worth) or last:
            share_out = reference_growth if self.handout == "one-by-one" else reference_one_pass
            self.ranks = share_out(worth, self.ranks, due - sum(self.ranks), self.most, limit, self.gamma)
        if self.reset:
            self.forget()
        return self.ranks


def reference_importance(steps, beta=0.9):
    """Moving average of |sum A dA| * |sum B dB| per rank dimension; `steps` holds A (r, i), dA, B (o, r), dB as nested lists."""
    rank = len(steps[0][0])
    score = [0.0] * rank
    for A, dA, B, dB in steps:
        for dimension in range(rank):
            pull_A = abs(sum(a * g for a, g in zip(A[dimension], dA[dimension], strict=True)))
            pull_B = abs(sum(row[dimension] * gradient[dimension] for row, gradient in zip(B, dB, strict=True)))
            score[dimension] = beta * score[dimension] + (1 - beta) * pull_A * pull_B
    return score


def reference_one_pass(worth, ranks, quota, most, per_event, gamma=1.2):
    """As released: experts in the order of their saliency, each takes what it may of what is left."""
    order = sorted(range(len(worth)), key=lambda e: (-worth[e] / (ranks[e] + 1) ** gamma, e))
    grown = list(ranks)
    for expert in order:
        take = max(min(per_event, most - ranks[expert], quota), 0)
        grown[expert] += take
        quota -= take
    return grown


def reference_run(worth, target, handout, events=18, gamma=1.2):
    """A whole growth of one layer whose signals stand still, from half of the mean to at most twice of it."""
    experts = len(worth)
    start, most = max(1, int(target / experts / 2)), 2 * math.ceil(target / experts)
    ranks = [start] * experts
    for event in range(1, events + 1):
        due = experts * start + (target - experts * start) * event // events
        limit = most if event == events else max(1, math.ceil(0.1 * (most - start)))
        share_out = reference_growth if handout == "one-by-one" else reference_one_pass
        ranks = share_out(worth, ranks, due - sum(ranks), most, limit, gamma)
    return ranks
