"""SpectraReport: what `plan analyze` writes and the planner reads."""

from collections.abc import Mapping
from typing import Literal

from spectra.fits import TailFit
from spectra.values import Document, Measured, Value


class Density(Value):
    """A histogram of log10 eigenvalues in equal bins: enough to draw the spectral density without keeping the eigenvalues."""

    log10_min: float
    log10_max: float
    counts: tuple[int, ...]


class SiteSpectrum(TailFit):
    """The spectrum of one matrix: its tail fit, and what can be said without a fit."""

    name: str
    """The module's name in the checkpoint, without `.weight`."""
    shape: tuple[int, int]
    """(d_out, d_in)."""
    n_eigenvalues: int
    n_cut: int
    """Eigenvalues at or below the threshold, left out of the fit."""
    lambda_max: Measured
    """Largest eigenvalue of W^T W: the squared spectral norm."""
    frobenius_norm: Measured
    stable_rank: Measured
    """Squared Frobenius norm over lambda_max."""
    density: Density | None


class Skipped(Value):
    """A tensor that was not analysed, and why."""

    name: str
    reason: str


class ModelInfo(Value):
    """Which model a report or plan is about."""

    name: str
    parameters: int
    fingerprint: str | None
    """Hash of all tensor names and shapes; None where only a table of alphas is known."""


class SpectraReport(Document):
    """Every tensor of a checkpoint: analysed, or listed with the reason why not. Sites are in network order."""

    kind: Literal["spectra"] = "spectra"
    model: ModelInfo
    estimator: str
    threshold: Measured
    sites: tuple[SiteSpectrum, ...]
    skipped: tuple[Skipped, ...]

    def by_name(self) -> Mapping[str, SiteSpectrum]:
        """The sites, by name."""
        return {site.name: site for site in self.sites}
