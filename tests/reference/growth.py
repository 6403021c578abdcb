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
