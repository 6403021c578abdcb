"""The power law against other distributions of the same tail: exponential, lognormal, and power law with exponential cut-off.

Log-likelihood ratios and their p-values as in powerlaw 1.5 (Alstott, Bullmore and Plenz, PLoS ONE 2014), after Vuong
(Econometrica 1989) and Clauset et al., section 5. A positive ratio favours the power law. Only p below 0.1 decides anything, and
with tails of a few dozen eigenvalues that is rare.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import erfc, log_ndtr
from scipy.stats import chi2

from spectra.estimators.fits import TailFit
from spectra.report import Comparison

Floats = NDArray[np.float64]
NESTED = "truncated power law"  # contains the power law, so its ratio follows chi-square instead
SEARCH: Any = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000}


def compare(spectrum: Floats, fit: TailFit) -> tuple[Comparison, ...]:
    """Compare the fitted power law with every alternative on its own tail.

    Args:
        spectrum: eigenvalues.
        fit: a fit of them; a failed one gives no comparisons.
    """
    if not np.isfinite(fit.alpha):
        return ()
    tail = spectrum[spectrum >= fit.x_min]
    # Log-densities of (alpha - 1) / x_min (x / x_min)^-alpha.
    logs = np.log(tail / fit.x_min)
    own = np.log(fit.alpha - 1) - np.log(fit.x_min) - fit.alpha * logs
    return tuple(_compared(name, own - density(tail, fit), name == NESTED) for name, density in ALTERNATIVES.items())


def _compared(name: str, differences: Floats, nested: bool) -> Comparison:
    # Standard deviation of the sum, from that of its terms (Vuong).
    ratio, spread = float(differences.sum()), float(np.sqrt(differences.size * differences.var()))
    # Twice the ratio to a law that contains the power law is chi-square, with one degree of freedom for its rate. Otherwise the
    # normalised ratio is standard normal, and without any spread both laws are one on this tail and nothing tells them apart.
    p = float(chi2.sf(abs(2 * ratio), 1)) if nested else float(erfc(abs(ratio) / spread / np.sqrt(2))) if spread > 0 else 1.0
    return Comparison(alternative=name, ratio=ratio, normalised_ratio=ratio / spread if spread > 0 else 0.0, iid_p=p)


def _exponential(tail: Floats, fit: TailFit) -> Floats:
    """Log-densities of an exponential above x_min; its rate in closed form."""
    excess = tail - fit.x_min
    rate = 1 / excess.mean()
    return np.asarray(np.log(rate) - rate * excess, dtype=np.float64)


def _lognormal(tail: Floats, fit: TailFit) -> Floats:
    """Log-densities of a lognormal cut off below x_min."""
    logs = np.log(tail)

    def densities(parameters: Floats) -> Floats:
        # The search moves in ln sigma, so that sigma stays positive wherever it steps.
        mu, sigma = parameters[0], np.exp(parameters[1])
        # ln P(x > x_min). With mu far below x_min, as in heavy tails, the probability itself would underflow.
        above = log_ndtr((mu - np.log(fit.x_min)) / sigma)
        z = (logs - mu) / sigma
        return np.asarray(-logs - np.log(sigma) - 0.5 * np.log(2 * np.pi) - 0.5 * z * z - above, dtype=np.float64)

    # 1e-3: the start needs a finite ln sigma, also where all values are nearly equal.
    return _best(densities, np.array([logs.mean(), np.log(max(float(logs.std()), 1e-3))]))


def _truncated(tail: Floats, fit: TailFit) -> Floats:
    """Log-densities of x^-alpha e^(-lambda x) above x_min, alpha > 1, lambda > 0 as in powerlaw."""
    # Once, not in every step of the search.
    nodes, weights = np.polynomial.legendre.leggauss(160)

    def densities(parameters: Floats) -> Floats:
        alpha, rate = 1 + np.exp(parameters[0]), np.exp(parameters[1])
        # The normaliser in ln x, up to where either factor has died out.
        # e^-60 and 1e-18 are less than the last bit of the sum. Near alpha 1 the power dies out beyond the largest double.
        power_ends = 1e18 ** (1 / (alpha - 1)) if alpha > 1.05 else np.inf
        width = np.log(min(1 + 60 / (rate * fit.x_min), power_ends))
        # With x = x_min e^u the integrand is smooth; its e^(-rate x_min) is taken out and comes back as a logarithm.
        u = width * (nodes + 1) / 2
        integrand = np.exp((1 - alpha) * u - rate * fit.x_min * np.expm1(u))
        log_norm = np.log((weights * integrand).sum() * width / 2) + (1 - alpha) * np.log(fit.x_min) - rate * fit.x_min
        return np.asarray(-alpha * np.log(tail) - rate * tail - log_norm, dtype=np.float64)

    return _best(densities, np.array([np.log(fit.alpha - 1), -np.log(tail.mean())]))


def _best(densities: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Log-densities at the maximum likelihood, from a simplex search."""
    # Steps of the search may overflow; only where it ends matters.
    with np.errstate(all="ignore"):
        found: Any = minimize(lambda p: float(-densities(p).sum()), start, method="Nelder-Mead", options=SEARCH)  # type: ignore[call-overload]
        return densities(found.x)


ALTERNATIVES: Mapping[str, Callable[[Floats, TailFit], Floats]] = {
    "exponential": _exponential,
    "lognormal": _lognormal,
    NESTED: _truncated,
}
