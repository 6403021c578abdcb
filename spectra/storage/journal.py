"""The journal of an analysis: finished matrices, a line each as they come, so that a killed one goes on where it stopped."""

import base64
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from spectra.core.errors import InputError
from spectra.report import SiteSpectrum

Floats = NDArray[np.float64]
Entries = dict[str, tuple[SiteSpectrum, Floats]]
NOTHING = np.empty(0)


class Journal:
    """An append-only file per rank. Its first line says what was analysed and how; a journal of anything else is started over."""

    def __init__(self, path: str | Path | None, purpose: str, index: int = 0) -> None:
        """Open a journal; without a path it remembers nothing."""
        self.base = Path(path) if path else None
        self.path = Path(f"{path}.{index}") if path else None
        self.purpose = purpose

    def read(self) -> Entries:
        """What earlier runs finished, on any rank."""
        if self.base is None or self.path is None:
            return {}
        entries: Entries = {}
        for path in sorted(self.base.parent.glob(f"{self.base.name}.*")):
            found = _entries(path, self.purpose)
            entries |= found or {}
            if found is None and path == self.path:
                path.unlink()
        if not self.path.exists():
            self._append(json.dumps(self.purpose))
        return entries

    def add(self, site: SiteSpectrum, spectrum: Floats | None) -> None:
        """Note a finished matrix, with its eigenvalues if they are to be kept."""
        if self.path is not None:
            kept = None if spectrum is None else base64.b64encode(spectrum.astype("<f8").tobytes()).decode()
            self._append(json.dumps([json.loads(site.model_dump_json()), kept]))

    def _append(self, line: str) -> None:
        assert self.path is not None
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from None


def remove(path: str | Path) -> None:
    """Delete the journals of an analysis that is finished and saved."""
    for part in Path(path).parent.glob(f"{Path(path).name}.*"):
        part.unlink(missing_ok=True)


def _entries(path: Path, purpose: str) -> Entries | None:
    """The whole lines of one journal, or None if it is of another analysis."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries: Entries = {}
    try:
        if not lines or json.loads(lines[0]) != purpose:
            return None
        for line in lines[1:]:
            site, kept = json.loads(line)
            spectrum = NOTHING if kept is None else np.frombuffer(base64.b64decode(kept), dtype="<f8")
            entries[site["name"]] = (SiteSpectrum.model_validate(site), spectrum)
    except (ValueError, ValidationError):
        pass  # the line that was being written when the run was killed; what came before it counts
    return entries
