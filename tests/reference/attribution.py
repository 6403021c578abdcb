"""Sharing a gain out among adapters, slowly: finite differences of the loss in the scale of one adapter's B after another."""

import torch


def reference_attribution(columns, loss, points, step=1e-3):
    """Midpoint rule for - integral of dL/ds_m along the diagonal.

    Args:
        columns: per site, views of the numbers in B that belong to it.
        loss: called without arguments, the loss as the model stands.
        points: of the midpoint rule.
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
    for point in range(points):
        t = (point + 0.5) / points
        for site in range(len(columns)):
            up, down = ([t + sign * step if other == site else t for other in range(len(columns))] for sign in (1, -1))
            found[site] -= (at(up) - at(down)) / (2 * step) / points
    at([1.0] * len(columns))
    return found
