"""A layer of routed experts with LoRA as a loop over tokens and their experts: one token, one expert, one product at a time."""

import torch


def reference_experts(hidden, index, weights, expert_matrices, activate, loras):
    """Sum over a token's experts of weight * down(activate(gate_up)), every projection with its LoRA.

    `expert_matrices[e]` maps projection -> (weight (d_out, d_in), bias or None); `loras[e]` maps projection -> (A, B, scale);
    `activate(gate, up)` joins the two.
    """
    rows = []
    for token, x in enumerate(hidden):
        total = torch.zeros_like(x)
        for expert, weight in zip(index[token].tolist(), weights[token], strict=True):

            def project(part, value, expert=expert):
                matrix, bias = expert_matrices[expert][part]
                y = matrix @ value + (0 if bias is None else bias)
                lora = loras[expert].get(part)
                return y if lora is None else y + lora[2] * (lora[1] @ (lora[0] @ value))

            inner = activate(project("gate_proj", x), project("up_proj", x))
            total = total + weight * project("down_proj", inner)
        rows.append(total)
    return torch.stack(rows)
