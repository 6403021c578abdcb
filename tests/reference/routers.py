"""Routers as a loop over tokens, in training mode and in evaluation."""

import math


def reference_sira(logits, top_k, real, capacity, closed, renormalise=False):
    """Gates of every token: the best open experts, softmax over them, and nothing from an expert that is full.

    With one expert per token its gate is the softmax over all, as in Switch. `closed[t][e]` says that expert e is closed to
    token t; only real tokens take a place.
    """
    experts = len(logits[0])
    limit = math.ceil(capacity * top_k * sum(real) / experts)
    taken, rows = [0] * experts, []
    for token, values in enumerate(logits):
        best = sorted(range(experts), key=lambda e: (closed[token][e], -values[e]))[:top_k]
        shifted = [values[e] - (1e4 if closed[token][e] else 0) for e in best]
        largest = max(shifted)
        weights = [math.exp(value - largest) for value in shifted]
        everyone = [value - (1e4 if closed[token][e] else 0) for e, value in enumerate(values)]
        whole = sum(weights) if top_k > 1 else sum(math.exp(value - largest) for value in everyone)
        row = [0.0] * experts
        for expert, weight in zip(best, weights, strict=True):
            if weight == 0:
                continue
            taken[expert] += real[token]
            if taken[expert] <= limit:
                row[expert] = weight / whole
        if renormalise and any(row):
            row = [gate * (sum(weights) / whole) / sum(row) for gate in row]
        rows.append(row)
    return rows


def reference_balance(probabilities, picks, real):
    """E * sum_e (share of picks of e) * (mean probability of e), over real tokens."""
    experts = len(probabilities[0])
    counted = [token for token, is_real in enumerate(real) if is_real]
    total = sum(sum(bool(pick) for pick in picks[token]) for token in counted)
    loss = 0.0
    for expert in range(experts):
        share = sum(bool(picks[token][expert]) for token in counted) / total
        loss += share * sum(probabilities[token][expert] for token in counted) / len(counted)
    return experts * loss
