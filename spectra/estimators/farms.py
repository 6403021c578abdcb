"""FARMS: the spectrum of fixed-aspect windows instead of the whole matrix, which removes the influence of its shape.

Source: Hu et al., ICML 2025, arXiv 2506.06280, with the released code's conventions (`fixed_sampling`, LLM pruning): windows of
100 rows and 200 columns at up to 10 x 10 evenly spaced corners, all their squared singular values pooled.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ROWS, ASPECT, POSITIONS = 100, 2.0, 10


def window_eigenvalues(W: Floats) -> Floats:
    """Pooled squared singular values of all windows of a matrix.

    Args:
        W: (d_out, d_in), as stored in the module, not transposed.

    Returns:
        Ascending. A matrix narrower than a window is cut at its border by the released code, and so it is here.
    """
    height, width = min(ROWS, *W.shape), int(ASPECT * min(ROWS, *W.shape))
    corners = product(_corners(W.shape[0], height), _corners(W.shape[1], width))
    # A negative start counts from the far end, so a window wider than the matrix is what that slice holds, as in the released
    # code.
    windows = [W[row : row + height, column : column + width] for row, column in corners]
    return np.sort(np.concatenate([_eigenvalues(np.stack(same)) for same in _by_shape(windows)]))


def _corners(size: int, window: int) -> list[int]:
    """Where windows start along one side; negative, for a window wider than the matrix, counts from the far end."""
    step = max(1, (size - window) // (POSITIONS - 1))  # ten corners are nine steps apart
    count = min(POSITIONS, max(1, (size - window) // step + 1))
    return [min(position * step, size - window) for position in range(count)]


def _by_shape(windows: list[Floats]) -> list[list[Floats]]:
    shapes: dict[tuple[int, ...], list[Floats]] = {}
    for window in windows:
        shapes.setdefault(window.shape, []).append(window)
    return list(shapes.values())


def _eigenvalues(stack: Floats) -> Floats:
    """Squared singular values of equally shaped windows, from one batched Gram product over their shorter side."""
    tall = stack if stack.shape[1] >= stack.shape[2] else stack.swapaxes(1, 2)
    return np.asarray(np.linalg.eigvalsh(tall.swapaxes(1, 2) @ tall), dtype=np.float64).ravel()
