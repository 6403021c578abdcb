"""The result of a tail fit, whichever estimator made it."""

from enum import StrEnum

from spectra.core.documents import Measured, Value


class FitStatus(StrEnum):
    """How a fit ended, in words that are shown to people. Only `OK`, `SMALL_SAMPLE` and `SHORT_TAIL` come with an exponent."""

    OK = "ok"
    SMALL_SAMPLE = "ok, but fewer than 20 eigenvalues to fit"
    SHORT_TAIL = "ok, but fewer than 10 eigenvalues in the tail"
    NOT_FINITE = "failed: NaN or infinite values"
    TOO_FEW = "failed: fewer than 2 eigenvalues above the threshold"
    ALL_EQUAL = "failed: all eigenvalues are equal"
    NEARLY_EQUAL = "failed: the tail's eigenvalues are equal up to rounding"
    HALF_ZERO = "failed: half of the eigenvalues are zero"
    EMPTY_WINDOW = "failed: no candidate in the window around the histogram's peak"
    NO_EXPONENT = "failed: no tail has an exponent above 1"
    NOT_GIVEN = "alpha taken from a table, not fitted"


class TailFit(Value):
    """A power law p(x) ~ x^-alpha fitted to the eigenvalues x >= x_min.

    A failed fit has NaN for every number and a status that says why; no sentinel ever enters a mean.
    """

    alpha: Measured
    x_min: Measured
    n_tail: int
    """Number of eigenvalues that the fit used."""
    ks: Measured
    """Kolmogorov-Smirnov distance between the tail and the fitted law."""
    sigma: Measured
    """Standard error of alpha for a given x_min: (alpha - 1) / sqrt(n_tail)."""
    status: FitStatus
