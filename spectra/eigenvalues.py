"""The empirical spectral density of a matrix: the eigenvalues of its Gram matrix W^T W.

They come from a double-precision Gram matrix, summed slab by slab, so no copy of W is ever held in float64. Against an SVD in
float64 this moves alpha by 5e-14 relative and is about three times faster; singular values below 1e-8 of the largest are lost.
torch does the work, on the CPU because its LAPACK is the faster one where we measured (benchmarks/), and on a GPU all the more.
"""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.layouts import Matrix
from spectra.checkpoint.reader import kernel_slices, slabs

Floats = NDArray[np.float64]
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # from malloc.h
BLOCK = 512  # rows of the Gram matrix at a time


def spectrum_of(matrix: Matrix, *, single: bool = False, device: str = "cpu") -> Floats:
    """Eigenvalues of one matrix of a checkpoint.

    Args:
        matrix: where its values lie.
        single: work in single precision; the caller checks whether that was enough.
        device: `cpu`, or a torch device such as `cuda`.

    Returns:
        Ascending, one per singular value; all NaN if any weight is not finite. A convolution's are pooled over kernel positions.
    """
    if not matrix.kernel:
        return eigenvalues(slabs(matrix), min(matrix.shape), single=single, device=device)
    pieces = [eigenvalues([_tall(piece)], min(matrix.shape), device=device) for piece in kernel_slices(matrix)]
    return np.sort(np.concatenate(pieces))


def _tall(W: Floats) -> Floats:
    return W if W.shape[0] >= W.shape[1] else W.T


def eigenvalues(slabs: Iterable[Floats], size: int, *, single: bool = False, device: str = "cpu") -> Floats:
    """Squared singular values of the matrix whose slabs are given.

    Args:
        slabs: arrays of shape (any, size) that stacked give W or its transpose, the smaller side being `size`.
        size: number of eigenvalues.
        single: work in single precision.
        device: where to.

    Returns:
        Shape (size,), ascending, not divided by anything. Rounding may leave tiny negative values in place of zeros.
        All NaN if any entry of W is not finite.
    """
    import torch  # loaded by whoever decomposes, not by whoever reads a report

    dtype = torch.float32 if single else torch.float64
    gram = torch.zeros(size, size, dtype=dtype, device=device)
    for slab in slabs:
        part = torch.from_numpy(slab).to(device=device, dtype=dtype)
        for start in range(0, size, BLOCK):  # the upper triangle only: half the work, and all that eigvalsh reads
            gram[start : start + BLOCK, start:].addmm_(part[:, start : start + BLOCK].T, part[:, start:])
        del slab, part  # or the last one would be held through the decomposition
    if not bool(torch.isfinite(gram.diagonal()).all()):  # every entry of W is in some diagonal element
        return np.full(size, np.nan)
    found: Floats = torch.linalg.eigvalsh(gram, UPLO="U").double().cpu().numpy()
    return found


@contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Inside the block glibc gives large blocks back to the system when they are freed.

    By itself it raises its threshold with every large block freed, up to 32 MiB, and keeps what lies below, per thread: 227 MB
    after twelve matrices whose largest takes 34. That is right for training, which asks for the same blocks again and again, so
    afterwards the thresholds are where it would have put them. Elsewhere than on glibc nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    # From 1 MiB on every block is mapped by itself and unmapped when freed. A threshold that is set is no longer raised by glibc.
    mallopt(M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        # The largest threshold that glibc raises itself to, and twice that for trimming, as it keeps the two.
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 64 << 20)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let every BLAS use so many threads. The number changes the last bits of a result, so it is never left to chance."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        # numpy's BLAS, which FARMS's windows use, has a pool of its own beside torch's.
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
