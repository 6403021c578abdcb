"""The table of tail estimators: eigenvalues in, TailFit out. A new estimator is one file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from spectra.core.errors import InputError
from spectra.estimators.clauset import clauset
from spectra.estimators.fits import TailFit
from spectra.estimators.hill import hill
from spectra.estimators.peak import peak, peak_meant


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """A row of the table."""

    fit: Callable[[ArrayLike], TailFit]
    """Eigenvalues in any order, zeros included -> the fit."""
    windowed: bool = False
    """Whether it is given the pooled eigenvalues of fixed-aspect windows (farms.py) instead of the whole matrix's."""
    always: bool = False
    """Whether every report holds its fit, whatever was asked for."""
    guarded: bool = False
    """Whether it can be vouched for in single precision."""


ESTIMATORS: dict[str, Estimator] = {
    # Always there: the one whose scale people know, the most reliable one (docs/guide/choosing.md), and AlphaLoRA's.
    "clauset": Estimator(fit=clauset, always=True, guarded=True),
    "hill": Estimator(fit=hill, always=True, guarded=True),
    "peak": Estimator(fit=peak, always=True),
    "peak-meant": Estimator(fit=peak_meant),
    "farms": Estimator(fit=hill, windowed=True),
    "farms-peak": Estimator(fit=peak, windowed=True),
}


def fit(eigenvalues: ArrayLike, estimator: str = "clauset") -> TailFit:
    """Fit the tail of a spectrum with a named estimator.

    Args:
        eigenvalues: squared singular values, any order; for `farms` and `farms-peak` those of all windows.
        estimator: a name from the table.

    Raises:
        InputError: no such estimator.

    Example:
        >>> import numpy as np
        >>> pareto = (1 - np.random.default_rng(0).random(4000)) ** -0.5  # a density that falls like x^-3
        >>> abs(fit(pareto).alpha - 3) < 0.2
        True
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"estimator {estimator!r}: not one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator].fit(eigenvalues)
