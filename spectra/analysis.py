"""`spectra.analyze`: every matrix of a checkpoint into a SpectraReport, resumable, on several cores or in several processes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spectra.checkpoint.chosen import chosen_modules
from spectra.checkpoint.folder import open_checkpoint
from spectra.checkpoint.fused import is_fused
from spectra.checkpoint.layouts import Matrix
from spectra.core.distributed import Processes
from spectra.core.errors import InputError
from spectra.core.log import LOG
from spectra.core.progress import Progress, silent
from spectra.eigenvalues import freed_memory_returned, threads
from spectra.report import ModelInfo, SiteSpectrum, Skipped, SpectraReport
from spectra.settings import AnalysisSettings
from spectra.spectrum import analyse_matrix
from spectra.storage.eigenvalue_file import load_eigenvalues, save_eigenvalues
from spectra.storage.journal import NOTHING, Journal

Floats = NDArray[np.float64]
# Up to this many eigenvalues one thread per matrix, several matrices at a time, beats several threads on one, and what they
# hold together is small. Larger ones come one at a time. Neither number depends on how many processes share the work, because the
# number of threads shows in the last bits.
SMALL = 1536
WORKERS = min(8, os.cpu_count() or 1)


def analyze(
    model: str | Path,
    settings: AnalysisSettings | None = None,
    *,
    journal: str | Path | None = None,
    eigenvalues: str | Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> SpectraReport:
    """Fit the spectral density of every weight matrix of a checkpoint.

    Args:
        model: a folder in Hugging Face layout, or a hub id.
        settings: what to compute; by default Clauset's alpha from exact eigenvalues.
        journal: where finished matrices are noted as they come, so that an interrupted analysis goes on. It is for the caller to
            remove it, once the report is saved.
        eigenvalues: a safetensors file to keep all eigenvalues in; if it exists for this model, nothing is decomposed again.
        device: `cpu`, or a torch device such as `cuda`.
        progress: told after each matrix, with the matrix's name.

    Returns:
        One site per weight matrix; every other tensor is listed as skipped with the reason. Under torchrun each process does
        its share and all return the same report.

    Raises:
        InputError: no such model, no weights, a corrupt file, nothing to analyse, or a device that is not there.
    """
    settings = settings or AnalysisSettings()
    checkpoint = open_checkpoint(model)
    matrices, reasons = checkpoint.contents
    if not matrices:
        raise InputError(f"{checkpoint.folder}: no weights to analyse: none of its {len(checkpoint.tensors)} tensors is a matrix")
    if whole := [matrix.name for matrix in matrices if matrix.name == matrix.module and is_fused(matrix.name.rpartition(".")[2])]:
        more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
        LOG.info(f"{whole[0]}{more}: kept whole, because config.json does not say which outputs are queries, keys and values")
    matrices, reasons = _asked(matrices, reasons, settings)
    known = load_eigenvalues(eigenvalues, checkpoint, settings) if eigenvalues else {}
    processes = Processes.join(device)
    # A journal counts only for the same weights and settings, and where eigenvalues are kept only if its entries hold them.
    # Hashing the weights reads all of them, so it is left out where there is no journal.
    purpose = f"{checkpoint.digest} {settings.model_dump_json()} {eigenvalues is not None}" if journal else ""
    log = Journal(journal, purpose, processes.index)
    done = log.read()
    # All are shared out, finished or not: processes read the journals at different moments, and would share out different rests.
    todo = [matrix for matrix in processes.share(matrices) if matrix.name not in done]
    # Alone, progress includes what the journal already held; one of several processes counts its own share.
    finished = len(matrices) - len(todo) if processes.count == 1 else 0
    for site, spectrum in _analysed(todo, settings, processes.device, known):
        kept = spectrum if eigenvalues else NOTHING  # thousands of spectra are as large as a matrix
        done[site.name] = (site, kept)
        log.add(site, kept)
        finished += 1
        progress(finished, len(matrices) if processes.count == 1 else len(todo), site.name)
    done = processes.gather(done)
    if eigenvalues and processes.index == 0:
        # With those that were kept before and are not asked for now.
        save_eigenvalues(eigenvalues, checkpoint, settings, known | {name: spectrum for name, (_, spectrum) in done.items()})
    skipped = tuple(Skipped(name=name, reason=reason) for name, reason in reasons.items())
    # In the checkpoint's order, whoever finished a matrix and when: two runs write the same bytes.
    sites = tuple(done[matrix.name][0] for matrix in matrices)
    return SpectraReport(model=ModelInfo.of(checkpoint), settings=settings, sites=sites, skipped=skipped)


def _asked(
    matrices: tuple[Matrix, ...], reasons: Mapping[str, str], settings: AnalysisSettings
) -> tuple[tuple[Matrix, ...], Mapping[str, str]]:
    """The matrices that are asked for; the others are among the reasons.

    Raises:
        InputError: a part of `modules` that no matrix answers to.
    """
    if settings.modules is None:
        return matrices, reasons
    asked = chosen_modules([matrix.module for matrix in matrices], settings.modules)
    others = {matrix.name: "not asked for" for matrix, one in zip(matrices, asked, strict=True) if not one}
    return tuple(compress(matrices, asked)), dict(sorted({**reasons, **others}.items()))


def _analysed(
    matrices: Sequence[Matrix], settings: AnalysisSettings, device: str, known: Mapping[str, Floats]
) -> Iterator[tuple[SiteSpectrum, Floats]]:
    """Analyse matrices, small ones side by side with one BLAS thread each, large ones one at a time with all threads."""

    def one(matrix: Matrix) -> tuple[SiteSpectrum, Floats]:
        return analyse_matrix(matrix, settings, device, known.get(matrix.name))

    small = [matrix for matrix in matrices if min(matrix.shape) <= SMALL and device == "cpu"]
    large = [matrix for matrix in matrices if min(matrix.shape) > SMALL or device != "cpu"]
    with freed_memory_returned():
        with threads(1), ThreadPoolExecutor(WORKERS) as pool:
            yield from pool.map(one, small)
        with threads(WORKERS):
            yield from map(one, large)
