"""What a strategy answers: how much each site wants capacity, and at which granularity that is meant."""

from dataclasses import dataclass
from typing import Literal

Granularity = Literal["model", "layer", "site"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A strategy's wishes, before any budget.

    The solver then maximises sum_m weights[m] * utility(total rank of m). Sites of one group (the model, a layer, or the site
    itself) share one total rank, or one rank per expert where the number of experts is prescribed.
    """

    weights: tuple[float, ...]
    """One per site, >= 0; only ratios matter. A site of weight 0 gets nothing."""
    granularity: Granularity = "site"
    utility: Literal["log", "log1p"] = "log1p"
    """`log`: capacity in proportion to weight, whatever the weight. `log1p`: the same, but saturating from the first rank on."""
    experts: tuple[int, ...] | None = None
    """Exact number of experts per site where the method prescribes it; otherwise it follows from the total rank."""
