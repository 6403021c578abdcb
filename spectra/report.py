"""SpectraReport: what `plan analyze` writes and the planner reads."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from spectra.checkpoint.folder import Checkpoint
from spectra.core.documents import Document, Measured, Value
from spectra.core.errors import InputError
from spectra.estimators.fits import TailFit
from spectra.metrics import Metrics
from spectra.settings import AnalysisSettings


class Density(Value):
    """A histogram of log10 eigenvalues in equal bins: enough to draw the spectral density without keeping the eigenvalues."""

    log10_min: float
    log10_max: float
    counts: tuple[int, ...]


class Interval(Value):
    """A percentile interval of alpha."""

    low: Measured
    high: Measured
    coverage: float
    replicas: int


class Comparison(Value):
    """The power law against one alternative distribution of the same tail."""

    alternative: str
    ratio: Measured
    """Sum of log-likelihood differences; positive favours the power law."""
    normalised_ratio: Measured
    """The ratio over its standard deviation."""
    iid_p: Measured
    """Probability of a ratio this far from zero if neither were better, were the eigenvalues independent."""


class Uncertainty(Value):
    """Results beyond the fit itself that were asked for; NaN or empty where they were not."""

    interval: Interval | None = None
    subsample_variation: Measured = float("nan")
    """Standard deviation over mean of alpha on random submatrices."""
    iid_p: Measured = float("nan")
    """Goodness of fit of the Clauset power law, were the eigenvalues independent."""
    comparisons: tuple[Comparison, ...] = ()


class SiteSpectrum(TailFit):
    """The spectrum of one matrix: its tail fit by the chosen estimator, and everything else that is known about it."""

    name: str
    """The module's name in the checkpoint, without `.weight`, and the part where a module fuses several matrices."""
    module: str
    """The linear module that holds the matrix."""
    shape: tuple[Annotated[int, Field(ge=1, lt=2**31)], Annotated[int, Field(ge=1, lt=2**31)]]
    """(d_out, d_in)."""
    n_eigenvalues: int
    n_cut: int
    """Eigenvalues at or below weightwatcher's absolute threshold of 1e-5, which the Clauset fit leaves out."""
    fits: dict[str, TailFit]
    """The fits of all estimators that were computed, by name."""
    metrics: Metrics | None
    density: Density | None
    uncertainty: Uncertainty


class Skipped(Value):
    """A tensor that was not analysed, and why."""

    name: str
    reason: str


class ModelInfo(Value):
    """Which model a report or plan is about."""

    name: str
    parameters: Annotated[int, Field(ge=1)]
    fingerprint: str | None
    """Hash of all tensor names and shapes; None where only a table of alphas is known."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Identify the model of a checkpoint.

        Raises:
            InputError: none of its tensors holds weights.
        """
        if not checkpoint.parameters:
            raise InputError(f"{checkpoint.folder}: no weights: none of its {len(checkpoint.tensors)} tensors holds any")
        return cls(name=checkpoint.name, parameters=checkpoint.parameters, fingerprint=checkpoint.fingerprint)


class SpectraReport(Document):
    """Every tensor of a checkpoint: analysed, or listed with the reason why not. Sites are in network order."""

    kind: Literal["spectra"] = "spectra"
    model: ModelInfo
    settings: AnalysisSettings | None
    """None where alphas come from a table."""
    sites: tuple[SiteSpectrum, ...]
    skipped: tuple[Skipped, ...]

    @property
    def estimator(self) -> str:
        """Name of the estimator whose exponents the sites report."""
        return self.settings.estimator if self.settings else "table"

    def alphas(self) -> Mapping[str, float]:
        """Site -> its alpha; NaN where the fit failed."""
        return {site.name: site.alpha for site in self.sites}

    def by_name(self) -> Mapping[str, SiteSpectrum]:
        """The sites, by name."""
        return {site.name: site for site in self.sites}
