"""Reading a matrix's values in double precision, a slab at a time, whatever the layout they are stored in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.layouts import BLOCK, Matrix
from spectra.checkpoint.tensor_files import sliced
from spectra.checkpoint.tensors import Tensor

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
                codes = _read(matrix, stored, start, stop, slice(0, d_in))[::step]
                yield _double(codes, scale, range(start, stop, step), range(d_in))
        else:
            for start in range(0, d_in, thickness):
                columns = range(start, min(start + thickness, d_in))
                inputs = slice(columns.start, columns.stop)
                parts = [
                    _double(_read(matrix, stored, *rows[:2], inputs)[:: rows[2]], scale, range(*rows), columns) for rows in spans
                ]
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
    """The scale of 8-bit codes, (rows, 1) or (rows, blocks of columns); int8 codes of bitsandbytes count in 127ths."""
    if matrix.scale is None:
        return None
    values = whole(matrix.scale)
    values = values / 127 if matrix.scale.name.endswith("SCB") else values
    rows = matrix.tensor.shape[0]
    if values.size == 1:
        return np.broadcast_to(values.reshape(1, 1), (rows, 1))
    if values.shape in ((rows,), (rows, 1)):
        return values.reshape(rows, 1)
    return values.repeat(BLOCK, axis=0)[:rows]  # no other shape is taken for a matrix (layouts.py)


def _double(values: Any, scale: Floats | None, rows: range, columns: range) -> Floats:
    """Stored values of some rows and columns in float64; codes times their scale."""
    found: Floats = values.double().numpy()  # by way of torch: numpy has no bfloat16 and no 8-bit floats
    if scale is None:
        return found
    factors = scale[rows]
    # One factor per row spreads over the columns by itself; blocks have one per block of columns.
    return np.asarray(found * (factors if factors.shape[1] == 1 else factors[:, np.array(columns) // BLOCK]), dtype=np.float64)


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
