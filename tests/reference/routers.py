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


def reference_gates(name, logits, top_k, real, capacity=None, closed=None, renormalise=False):
    """Gates and picks in training, token by token and expert by expert, of torch scalars through which gradients flow.

    Args:
        name: of the router.
        logits: (tokens, experts), a tensor.
        top_k: experts per token.
        real: which tokens are no padding.
        capacity: `sira`'s limit over an even share.
        closed: `closed[t][e]`: expert e is closed to token t (`sira`).
        renormalise: raise what is left after others turned a token away (`sira`).

    Returns:
        Two lists of rows; an expert that is not used has 0.0.
    """
    experts = logits.shape[1]
    limit = None if capacity is None else math.ceil(capacity * top_k * sum(real) / experts)
    taken, gates, picks = [0] * experts, [], []
    for token in range(len(logits)):
        row = [logits[token, e] - (1e4 if closed and closed[token][e] else 0) for e in range(experts)]
        exps = [(value - max(one.item() for one in row)).exp() for value in row]
        chosen = sorted(range(experts), key=lambda e: -row[e].item())[: experts if name == "dense" else top_k]
        among = range(experts) if name == "dense" or len(chosen) == 1 < experts else chosen
        whole = sum(exps[e] for e in among)
        picked = {e: exps[e] / whole for e in chosen}
        if name == "constant":
            everyone = sum(exps)
            soft = {e: exps[e] / everyone for e in chosen}
            picked = {e: 1 / top_k + soft[e] - soft[e].detach() for e in chosen}
        kept = dict(picked)
        for e in chosen:
            if limit is not None and picked[e].item() > 0:
                taken[e] += bool(real[token])
                if taken[e] > limit:
                    del kept[e]
        if renormalise and sum(gate.item() for gate in kept.values()) > 0:
            raised = sum(picked.values()) / sum(kept.values())
            kept = {e: gate * raised for e, gate in kept.items()}
        gates.append([kept.get(e, 0.0) for e in range(experts)])
        picks.append([picked.get(e, 0.0) for e in range(experts)])
    return gates, picks
