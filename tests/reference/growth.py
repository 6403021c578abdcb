"""DR-LoRA's greedy growth written from the formula: at every single rank, the saliency of every expert anew."""


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
