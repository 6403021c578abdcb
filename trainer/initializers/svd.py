"""`svd`: experts start from segments of the weight's own singular vectors (GOAT, arXiv 2502.16894; with one expert PiSSA's idea).

Expert e of E gets the singular triplets from e * side / E on: B_e = U_e sqrt(S_e / (s_e rho)), A_e = sqrt(S_e / (s_e rho)) V_e^T,
with s_e the expert's scaling.
"""

from trainer.initializers.layer import NewLayer

RHO = 10.0  # GOAT's constant


def svd(layer: NewLayer) -> None:
    """Give every expert its segment."""
    import torch

    from planner.modules.linear import dense_weight

    side, experts = min(layer.A.shape[1], layer.B.shape[0]), len(layer.ranks)
    U, S, Vh = torch.linalg.svd(dense_weight(layer.base, layer.A.dtype), full_matrices=False)
    A, B = [], []
    for expert, (rank, scaling) in enumerate(zip(layer.ranks, layer.scalings, strict=True)):
        first = min(expert * (side // experts), side - rank)  # the last segment may overlap its neighbour's
        segment = slice(first, first + rank)
        size = (S[segment] / (scaling * RHO)).sqrt()
        A.append(size[:, None] * Vh[segment])
        B.append(U[:, segment] * size)
    layer.A.copy_(torch.cat(A))
    layer.B.copy_(torch.cat(B, dim=1))
