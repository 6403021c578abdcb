"""Sharing a gain out among adapters, slowly: finite differences of the loss in the scale of one adapter's B after another."""

import torch

POINTS = {0.5: 8 / 18, 0.5 - 0.15**0.5: 5 / 18, 0.5 + 0.15**0.5: 5 / 18}  # Gauss and Legendre's on [0, 1], with their weights


def reference_attribution(columns, loss, points=POINTS, step=1e-3):
    """Quadrature for - integral of dL/ds_m along the diagonal, what it misses of L(0) - L(1) shared out in proportion to sizes.

    Args:
        columns: per site, views of the numbers in B that belong to it.
        loss: called without arguments, the loss as the model stands.
        points: place -> weight.
        step: of the central difference.

    Returns:
        Shape (sites,).
    """
    whole = [column.clone() for column in columns]

    def at(factors):
        with torch.no_grad():
            for column, full, factor in zip(columns, whole, factors, strict=True):
                column.copy_(full * factor)
            return float(loss())

    found = torch.zeros(len(columns), dtype=torch.float64)
    for t, weight in points.items():
        for site in range(len(columns)):
            up, down = ([t + sign * step if other == site else t for other in range(len(columns))] for sign in (1, -1))
            found[site] -= (at(up) - at(down)) / (2 * step) * weight
    without, whole_loss = at([0.0] * len(columns)), at([1.0] * len(columns))
    missing = without - whole_loss - found.sum()
    return found + missing * found.abs() / found.abs().sum()
