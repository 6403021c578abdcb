"""A strategy's answer: how much each site wants capacity, and at which granularity that is meant."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from planner.strategies.growth import GrowthRule

Floats = NDArray[np.float64]
Utility = Literal["log", "log1p"]
Granularity = Literal["model", "layer", "projection", "expert", "module"]


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
    growth: GrowthRule | None = None
    """Ranks as growth by this rule would end; the solver is then not asked, and every expert has the same mean rank."""
    released_rounding: bool = False
    """Experts by AlphaLoRA's released rounding instead of the largest remainder."""


def utility(name: Utility, ranks: Floats) -> Floats:
    """Utility of a total rank, per unit of weight.

    Args:
        name: `log`: capacity in proportion to weight. `log1p`: the same, but saturating from the first rank on.
        ranks: total ranks, any shape; at least 1 for `log`.

    Returns:
        The same shape, strictly increasing in rank and concave.
    """
    return np.log(ranks) if name == "log" else np.log1p(ranks)
