"""The table of tail estimators: eigenvalues in, TailFit out. A new estimator is one file and one line here."""

from collections.abc import Callable

from numpy.typing import ArrayLike

from spectra.core.errors import InputError
from spectra.estimators.clauset import clauset
from spectra.estimators.fits import TailFit
from spectra.estimators.hill import hill, peak, peak_meant

Estimator = Callable[[ArrayLike], TailFit]

ESTIMATORS: dict[str, Estimator] = {
    "clauset": clauset,
    "hill": hill,
    "peak": peak,
    "peak-meant": peak_meant,
    "farms": hill,
    "farms-peak": peak,
}
# These take the pooled eigenvalues of fixed-aspect windows (spectra/estimators/farms.py) instead of the whole matrix's.
WINDOWED = frozenset({"farms", "farms-peak"})
# Computed from every spectrum, whatever is asked for: the default for reporting and the most reliable one (docs/choosing.md).
ALWAYS = ("clauset", "hill")


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
    return ESTIMATORS[estimator](eigenvalues)
