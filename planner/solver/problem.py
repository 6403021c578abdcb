"""A planning problem: everything that says which plan is the best, and what follows from it before anything is solved."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.evidence.evidence import Evidence, SiteEvidence
from planner.settings import AllocationSettings
from planner.solver.budget import BudgetLimit
from planner.strategies.demand import Demand, Granularity, Utility

Floats = NDArray[np.float64]


# No slots: cached properties keep their values in the instance's __dict__.
@dataclass(frozen=True, kw_only=True)
class Problem:
    """How much every site wants, what may be spent, and the limits on the answer."""

    evidence: Evidence
    demand: Demand
    limit: BudgetLimit
    settings: AllocationSettings

    def within(self, amount: int) -> "Problem":
        """The same problem under another limit."""
        return replace(self, limit=replace(self.limit, amount=amount))

    @cached_property
    def wanted(self) -> list[SiteEvidence]:
        """The sites of positive weight."""
        return [site for site, weight in zip(self.evidence.sites, self.demand.weights, strict=True) if weight > 0]

    @property
    def mean_rank(self) -> float:
        """Total rank per wanted site that the limit affords, routers aside."""
        return self.limit.amount / max(1, sum(site.rank_cost for site in self.wanted))

    @cached_property
    def relative_weights(self) -> Floats:
        """(sites,): weights over the largest."""
        # Only ratios matter, and rescaled weights then give the same numbers to the solver.
        return np.array(self.demand.weights) / max(self.demand.weights)

    @property
    def granularity(self) -> Granularity:
        """Which sites share one answer: as asked for, else as the strategy means it."""
        return self.settings.granularity or self.demand.granularity

    @property
    def utility(self) -> Utility:
        """How wanting saturates; some strategies mean another one where sites may go without."""
        if self.settings.min_rank == 0 and self.demand.without_floor is not None:
            return self.demand.without_floor
        return self.demand.utility

    @cached_property
    def groups(self) -> list[list[int]]:
        """Positions of the sites that share one decision; sites of weight 0 are in no group."""
        gathered: dict[object, list[int]] = {}
        for position, (site, weight) in enumerate(zip(self.evidence.sites, self.demand.weights, strict=True)):
            if weight > 0:
                gathered.setdefault(_group(site, self.granularity), []).append(position)
        return list(gathered.values())


def _group(site: SiteEvidence, granularity: Granularity) -> object:
    if granularity == "expert":
        return (site.layer, site.expert) if site.expert is not None else site.name
    return {"model": None, "layer": site.layer, "projection": site.projection, "module": site.name}[granularity]
