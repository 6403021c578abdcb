"""Eigenvalues kept on disk: one safetensors file, so that a new estimator or plot costs no new decomposition."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from spectra.checkpoint.folder import Checkpoint
from spectra.checkpoint.tensor_files import opened
from spectra.core.errors import InputError
from spectra.core.files import write_atomic
from spectra.settings import AnalysisSettings

Floats = NDArray[np.float64]


def _metadata(checkpoint: Checkpoint, settings: AnalysisSettings) -> dict[str, str]:
    # What eigenvalues depend on. All other settings are about what is fitted to them, and may change.
    return {"weights": checkpoint.digest, "precision": settings.precision, "content": "eigenvalues of W^T W"}


def save_eigenvalues(path: str | Path, checkpoint: Checkpoint, settings: AnalysisSettings, spectra: Mapping[str, Floats]) -> None:
    """Write every matrix's eigenvalues under its name.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(spectrum) for name, spectrum in sorted(spectra.items())}
    write_atomic(path, save(arrays, metadata=_metadata(checkpoint, settings)))


def load_eigenvalues(path: str | Path, checkpoint: Checkpoint, settings: AnalysisSettings) -> dict[str, Floats]:
    """Read kept eigenvalues; none if there is no such file yet.

    Raises:
        InputError: the file is unreadable, or it was made for another model or precision.
    """
    if not Path(path).exists():
        return {}
    with opened(Path(path), "np") as stored:
        found, wanted = stored.metadata() or {}, _metadata(checkpoint, settings)
        for key, value in wanted.items():
            if found.get(key) != value:
                raise InputError(f"{path}: kept eigenvalues have {key} {found.get(key)!r}, not {value!r}; choose another file")
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
