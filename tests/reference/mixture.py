"""The mixture of LoRA experts as every paper writes it: a loop over experts, one B_e A_e x at a time."""

import torch


def reference_mixture(x, base, A_list, B_list, router, top_k, scalings):
    """base(x) + sum of gate * scaling * B_e A_e x; gates are the softmax over all experts, cut to top_k and renormalised.

    With one expert per token they are not renormalised, as in Switch.
    """
    y = base(x)
    if len(A_list) == 1:
        return y + scalings[0] * (x @ A_list[0].T @ B_list[0].T)
    probabilities = torch.softmax(x @ router.T, dim=-1)
    kept = torch.zeros_like(probabilities)
    for token, mask in zip(probabilities.reshape(-1, len(A_list)), kept.view(-1, len(A_list)), strict=True):
        mask[token.topk(top_k).indices] = 1.0
    gates = probabilities * kept
    if top_k > 1:
        gates = gates / gates.sum(-1, keepdim=True)
    for expert, (A, B, scaling) in enumerate(zip(A_list, B_list, scalings, strict=True)):
        y = y + gates[..., expert : expert + 1] * scaling * (x @ A.T @ B.T)
    return y
