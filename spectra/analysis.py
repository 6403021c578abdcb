"""`spectra.analyze`: every matrix of a checkpoint, one at a time, into a SpectraReport."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint import Checkpoint, Tensor, blocks, open_checkpoint, why_not_a_matrix
from spectra.clauset import WW_THRESHOLD
from spectra.density import eigenvalues
from spectra.estimators import fit
from spectra.report import Density, ModelInfo, SiteSpectrum, Skipped, SpectraReport
from spectra.values import InputError

BINS = 100  # the resolution that the literature's histogram estimators use
Progress = Callable[[int, int, str], None]


def analyze(model: str | Path, estimator: str = "clauset", progress: Progress | None = None) -> SpectraReport:
    """Fit the spectral density of every weight matrix of a checkpoint.

    Args:
        model: a folder in Hugging Face layout, or a hub id.
        estimator: a name from the table in `spectra.estimators`.
        progress: called as progress(done, total, name) before each matrix and once at the end.

    Returns:
        One site per two-dimensional floating-point tensor; every other tensor is listed as skipped with the reason.

    Raises:
        InputError: no such model, no weights, a corrupt file, or nothing to analyse.
    """
    checkpoint = open_checkpoint(model)
    matrices = [tensor for tensor in checkpoint.tensors if not why_not_a_matrix(tensor)]
    if not matrices:
        raise InputError(f"{checkpoint.folder}: no weights to analyse: none of its {len(checkpoint.tensors)} tensors is a matrix")
    sites = []
    for done, tensor in enumerate(matrices):
        if progress:
            progress(done, len(matrices), tensor.name)
        sites.append(_site(tensor, estimator))
    if progress:
        progress(len(matrices), len(matrices), "done")
    skipped = tuple(Skipped(name=tensor.name, reason=why) for tensor in checkpoint.tensors if (why := why_not_a_matrix(tensor)))
    return SpectraReport(
        model=model_info(checkpoint),
        estimator=estimator,
        threshold=WW_THRESHOLD,
        sites=tuple(sites),
        skipped=skipped,
    )


def model_info(checkpoint: Checkpoint) -> ModelInfo:
    """Identify a model by its name, its size and its architecture."""
    return ModelInfo(name=checkpoint.name, parameters=checkpoint.parameters, fingerprint=checkpoint.fingerprint)


def _site(tensor: Tensor, estimator: str) -> SiteSpectrum:
    spectrum = eigenvalues(blocks(tensor), min(tensor.shape))
    lambda_max, trace = float(spectrum[-1]), float(spectrum.sum())
    return SiteSpectrum(
        **fit(spectrum, estimator).model_dump(),
        name=tensor.name.removesuffix(".weight"),
        shape=(tensor.shape[0], tensor.shape[1]),
        n_eigenvalues=spectrum.size,
        n_cut=int((spectrum <= WW_THRESHOLD).sum()),
        lambda_max=lambda_max,
        frobenius_norm=float(np.sqrt(trace)),
        stable_rank=trace / lambda_max if lambda_max > 0 else np.nan,
        density=_density(spectrum[spectrum > WW_THRESHOLD]),
    )


def _density(positive: NDArray[np.float64]) -> Density | None:
    if positive.size < 2:
        return None
    logs = np.log10(positive)
    counts, edges = np.histogram(logs, bins=BINS)
    return Density(log10_min=float(edges[0]), log10_max=float(edges[-1]), counts=tuple(counts.tolist()))
