"""A strategy's answer: how much each site wants capacity, and at which granularity that is meant."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Utility = Literal["log", "log1p", "power"]
Granularity = Literal["model", "layer", "projection", "expert", "module"]
GAMMA = 1.2  # DR-LoRA's penalty exponent, hard-coded in its release


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A strategy's wishes, before any budget.

    The solver then maximises sum_m weights[m] * c_m * utility(total rank of m), with c_m the parameters of one rank at m, so that
    equal weights mean equal ranks whatever the shapes. Sites of one group share one total rank.
    """

    weights: tuple[float, ...]
    """One per site, >= 0; only ratios matter. A site of weight 0 gets nothing."""
    granularity: Granularity = "module"
    utility: Utility = "log1p"
    without_floor: Utility | None = None
    """The utility where the user asks for a minimum rank of 0; by default the same."""
    spares_routed: bool = False
    """Whether routed experts may go without, where the user asks for no least rank: who sees no token learns nothing."""
    plain: bool = False
    """Whether a module gets one LoRA where the user asks for no experts."""
    experts: tuple[int, ...] | None = None
    """Number of LoRA experts per site, where a released method prescribes it; the solver is then not asked."""
    released_rounding: bool = False
    """Experts by AlphaLoRA's released rounding instead of the largest remainder."""


def utility(name: Utility, ranks: Floats) -> Floats:
    """Utility of a total rank, per unit of weight.

    Args:
        name: `log`: capacity in proportion to weight. `log1p`: the same, but saturating from the first rank on. `power`:
            sum_{k<=r} k^-gamma, whose marginal gain (r+1)^-gamma is DR-LoRA's saliency for f g = 1.
        ranks: total ranks, any shape; at least 1 for `log`, whole numbers for `power`.

    Returns:
        The same shape, strictly increasing in rank and concave.
    """
    if name == "log":
        return np.log(ranks)
    if name == "log1p":
        return np.log1p(ranks)
    total = np.cumsum(np.arange(1, int(ranks.max()) + 1, dtype=np.float64) ** -GAMMA)  # at k - 1: what k ranks are worth
    found: Floats = np.append(0.0, total)[ranks.astype(int)]
    return found
