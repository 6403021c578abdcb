"""The journal of an analysis: finished matrices, a line each as they come, so that a killed one goes on where it stopped."""

import base64
import json
import os
from glob import escape
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
    """An append-only file per process. Its first line says what was analysed; a journal of anything else is started over."""

    def __init__(self, path: str | Path | None, purpose: str, index: int = 0) -> None:
        """Open a journal; without a path it remembers nothing."""
        self.base = Path(path) if path else None
        self.path = Path(f"{path}.{index}") if path else None
        self.purpose = purpose

    def read(self) -> Entries:
        """Matrices that earlier runs finished, in any process."""
        if self.base is None or self.path is None:
            return {}
        entries: Entries = {}
        for path in sorted(_parts(self.base)):
            found = _entries(path, self.purpose)
            entries |= found or {}
            # Only its own: another process may be at this point as well, and starts its own over itself.
            if found is None and path == self.path:
                path.unlink()
        if not self.path.exists():
            self._append(json.dumps(self.purpose))
        elif not self.path.read_bytes().endswith(b"\n"):
            self._append("")  # ends the line that a kill tore, or the next entry would be lost with it
        return entries

    def add(self, site: SiteSpectrum, spectrum: Floats) -> None:
        """Note a finished matrix, with its eigenvalues, or `NOTHING` if they are not to be kept."""
        if self.path is not None:
            # Little-endian on every machine, which is how it is read again.
            kept = None if spectrum is NOTHING else base64.b64encode(spectrum.astype("<f8").tobytes()).decode()
            self._append(json.dumps([json.loads(site.model_dump_json()), kept]))  # pydantic writes NaN as null, json would not

    def _append(self, line: str) -> None:
        assert self.path is not None
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())  # or a line could still be lost with the machine
        except OSError as error:
            raise InputError(f"{self.path}: cannot write: {error.strerror}") from None


def remove(path: str | Path) -> None:
    """Delete the journals of an analysis that is finished and saved."""
    for part in _parts(Path(path)):
        part.unlink(missing_ok=True)


def _parts(base: Path) -> list[Path]:
    """The journals of all processes; a name such as `s[1].json` is a name, not a pattern."""
    return list(base.parent.glob(f"{escape(base.name)}.*"))


def _entries(path: Path, purpose: str) -> Entries | None:
    """The whole lines of one journal, or None if it is of another analysis."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    entries: Entries = {}
    if not lines or lines[0] != json.dumps(purpose):
        return None
    for line in lines[1:]:
        try:
            site, kept = json.loads(line)
            spectrum = NOTHING if kept is None else np.frombuffer(base64.b64decode(kept), dtype="<f8")
            entries[site["name"]] = (SiteSpectrum.model_validate(site), spectrum)
        except (ValueError, TypeError, ValidationError):
            continue  # the line that was being written when a run was killed; all others count
    return entries
