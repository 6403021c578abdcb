"""Reading a matrix's values in double precision, a slab at a time, whatever the layout they are stored in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.layouts import Matrix
from spectra.checkpoint.tensors import Tensor, sliced

Floats = NDArray[np.float64]
SLAB = 1024  # rows (or columns) at a time: bounds what is held beside the Gram matrix


def slabs(matrix: Matrix, thickness: int = SLAB) -> Iterator[Floats]:
    """Stream a matrix along its longer side.

    Args:
        matrix: of shape (d_out, d_in), no convolution.
        thickness: rows or columns in a slab.

    Yields:
        Arrays of shape (at most `thickness`, min(d_out, d_in)): slabs of W, transposed where W is wide.

    Raises:
        InputError: the file ends early or cannot be read.
    """
    d_out, d_in = matrix.shape
    spans = matrix.outputs or ((0, d_out, 1),)
    scale = _scale(matrix)
    with sliced(matrix.tensor) as stored:
        if d_out >= d_in:
            for start, stop, step in _chunks(spans, thickness):
                yield _double(_read(matrix, stored, start, stop, slice(0, d_in))[::step], scale, start)
        else:
            for start in range(0, d_in, thickness):
                inputs = slice(start, min(start + thickness, d_in))
                parts = [_double(_read(matrix, stored, a, b, inputs)[::step], scale, a, inputs.start) for a, b, step in spans]
                yield np.concatenate(parts).T


def _chunks(spans: tuple[tuple[int, int, int], ...], thickness: int) -> Iterator[tuple[int, int, int]]:
    for start, stop, step in spans:
        for first in range(start, stop, thickness * step):
            yield first, min(stop, first + thickness * step), step


def _read(matrix: Matrix, stored: Any, start: int, stop: int, inputs: slice) -> Any:
    """Outputs start..stop and some inputs of a matrix, as a torch tensor of shape (outputs, inputs)."""
    where = (inputs, slice(start, stop)) if matrix.transposed else (slice(start, stop), inputs)
    expert = matrix.expert
    found = stored[where] if expert is None else stored[slice(expert, expert + 1), *where][0]
    return found.T if matrix.transposed else found


def _scale(matrix: Matrix) -> Floats | None:
    """The scale of 8-bit codes as a 2-D array; int8 codes of bitsandbytes count in 127ths."""
    if matrix.scale is None:
        return None
    values = whole(matrix.scale)
    values = values / 127 if matrix.scale.name.endswith("SCB") else values
    # (1, 1) for one number, (rows, 1) for one per row, (row blocks, column blocks) for blocks.
    return values.reshape(len(values) if values.ndim else 1, -1)


def _double(values: Any, scale: Floats | None, row: int, column: int = 0) -> Floats:
    """Stored values in float64; codes times their scale, which may be one number, one per row, or one per block."""
    found: Floats = values.double().numpy()  # by way of torch: numpy has no bfloat16 and no 8-bit floats
    if scale is None:
        return found
    rows, columns = (np.arange(first, first + size) for first, size in zip((row, column), found.shape, strict=True))
    blocked = scale.shape[1] > 1  # DeepSeek's blocks of 128 x 128
    # (rows, columns) for blocks, else (rows, 1) or (1, 1), which numpy spreads over the columns.
    factors = scale[rows[:, None] // 128, columns // 128] if blocked else scale[rows] if scale.size > 1 else scale
    return np.asarray(found * factors, dtype=np.float64)


def whole(tensor: Tensor) -> Floats:
    """All values of a tensor in float64."""
    with sliced(tensor) as stored:
        values: Floats = stored[...].double().numpy()
        return values


def kernel_slices(matrix: Matrix) -> Iterator[Floats]:
    """A convolution's (out, in) matrix at every kernel position, times sqrt(1/2): weightwatcher's convention."""
    values = whole(matrix.tensor)
    for position in np.moveaxis(values.reshape(*matrix.shape, -1), -1, 0):
        yield position * np.sqrt(0.5)
