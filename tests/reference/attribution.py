"""Sharing a gain out among adapters, slowly: finite differences of the loss in the scale of one adapter's B after another."""

import torch

POINTS = {0.5: 8 / 18, 0.5 - 0.15**0.5: 5 / 18, 0.5 + 0.15**0.5: 5 / 18}  # Gauss and Legendre's on [0, 1], with their weights


def reference_attribution(columns, losses, enough=0.05, most=39, step=1e-3):
    """Quadrature for - integral of dL/ds_m along the diagonal, in parts that are halved where most of L(0) - L(1) is missed.

    What a part misses in the end is shared out in proportion to sizes.

    Args:
        columns: per site, views of the numbers in B that belong to it.
        losses: called without arguments, the loss of every batch as the model stands.
        enough: share of the mean of L(0) - L(1) that may be missed.
        most: points in all.
        step: of the central difference.

    Returns:
        Shape (batches, sites), the share that was missed, and the number of points.
    """
    whole = [column.clone() for column in columns]

    def at(factors):
        with torch.no_grad():
            for column, full, factor in zip(columns, whole, factors, strict=True):
                column.copy_(full * factor)
            return losses()

    def slope(t, site):
        up, down = ([t + sign * step if other == site else t for other in range(len(columns))] for sign in (1, -1))
        return (at(up) - at(down)) / (2 * step)

    def everywhere(t):
        return at([t] * len(columns))

    def integral(begin, end):
        length = end - begin
        parts = [
            -sum(weight * length * slope(begin + t * length, site) for t, weight in POINTS.items())
            for site in range(len(columns))
        ]
        return torch.stack(parts, dim=1)

    def missed(begin, end):
        return everywhere(begin) - everywhere(end) - found[begin, end].sum(1)

    def gap():
        return sum(abs(missed(*part).mean()) for part in found) / abs((everywhere(0.0) - everywhere(1.0)).mean())

    found = {(0.0, 1.0): integral(0.0, 1.0)}
    while gap() > enough and len(POINTS) * (2 * len(found) + 1) <= most:
        begin, end = max(found, key=lambda part: abs(missed(*part).mean()))
        del found[begin, end]
        middle = (begin + end) / 2
        found |= {(begin, middle): integral(begin, middle), (middle, end): integral(middle, end)}
    rest = [missed(*part)[:, None] * shares.abs() / shares.abs().sum(1, keepdim=True) for part, shares in found.items()]
    points = len(POINTS) * (2 * len(found) - 1)  # every halving made two parts of one, whose points were spent
    shares, last = sum(found.values()) + sum(rest), float(gap())
    at([1.0] * len(columns))
    return shares, last, points
