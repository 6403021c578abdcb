"""What the solver may choose from: for every group of sites a menu of total ranks, each with its experts, cost and value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.evidence.evidence import Evidence, SiteEvidence
from planner.settings import AllocationSettings, Granularity
from planner.solver.budget import Cap, site_cost
from planner.solver.knapsack import Kind, Menu
from planner.strategies.demand import Demand, utility
from spectra import InputError

DEFAULT_EXPERT_RANK = 8  # what AlphaLoRA, LoRA-SMoE and MoLA train with
MOST_EXPERTS = 8  # by default
CEILING = 8  # by default no site gets more than this many times the affordable mean rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a site's total rank is cut into (experts, rank) pairs."""

    expert_rank: int
    """Rank an expert grows to before the next one is added."""
    max_experts: int
    multiple: int

    def ranks(self, total: int, expert: int | None = None) -> tuple[int, ...]:
        """Cut a total rank, a multiple of `multiple`, into experts that differ by at most one multiple.

        Args:
            total: of all experts.
            expert: a routed expert of the base model, which is itself the expert: it gets one LoRA.
        """
        if total == 0:
            return ()
        count = 1 if expert is not None else min(self.max_experts, -(-total // self.expert_rank))
        units, larger = divmod(total // self.multiple, count)
        return ((units + 1) * self.multiple,) * larger + (units * self.multiple,) * (count - larger)


def cut_for(evidence: Evidence, demand: Demand, cap: Cap, settings: AllocationSettings) -> Cut:
    """Choose the experts' rank: as asked for, else 8, or for a tight budget what leaves an average site two experts.

    Raises:
        InputError: a rank that no site can have, or that is no multiple.
    """
    rank = settings.expert_rank
    if rank is None:
        rank = max(_default_rank(evidence, demand, cap), settings.rank_multiple)
    if rank > (side := min(min(site.shape) for site in evidence.sites)):
        raise InputError(f"expert rank {rank} exceeds the smallest side of a site, {side}")
    if rank % settings.rank_multiple:
        raise InputError(f"expert rank {rank} is no multiple of --rank-multiple {settings.rank_multiple}")
    plain = demand.plain and settings.expert_rank is None and cap.unit == "parameters"
    most = settings.max_experts or (1 if plain else MOST_EXPERTS)
    return Cut(expert_rank=rank, max_experts=most, multiple=settings.rank_multiple)


def _default_rank(evidence: Evidence, demand: Demand, cap: Cap) -> int:
    if cap.unit == "experts" or demand.experts is not None:
        return DEFAULT_EXPERT_RANK
    half = int(mean_rank(evidence, demand, cap) / 2)
    return min(DEFAULT_EXPERT_RANK, 1 << max(0, half.bit_length() - 1))


def mean_rank(evidence: Evidence, demand: Demand, cap: Cap) -> float:
    """Total rank per wanted site that the cap affords, routers aside."""
    return cap.amount / max(1, sum(site.rank_cost for site in wanted(evidence, demand)))


def wanted(evidence: Evidence, demand: Demand) -> list[SiteEvidence]:
    """The sites of positive weight."""
    return [site for site, weight in zip(evidence.sites, demand.weights, strict=True) if weight > 0]


def groups(evidence: Evidence, demand: Demand, granularity: Granularity) -> list[list[int]]:
    """Positions of the sites that share one decision; sites of weight 0 are in no group."""
    gathered: dict[object, list[int]] = {}
    for position, (site, weight) in enumerate(zip(evidence.sites, demand.weights, strict=True)):
        if weight > 0:
            gathered.setdefault(_group(site, granularity), []).append(position)
    return list(gathered.values())


def _group(site: SiteEvidence, granularity: Granularity) -> object:
    if granularity == "expert":
        return (site.layer, site.expert) if site.expert is not None else site.name
    return {"model": None, "layer": site.layer, "projection": site.projection, "module": site.name}[granularity]


def menus(
    evidence: Evidence, demand: Demand, cap: Cap, cut: Cut, settings: AllocationSettings, members: Sequence[Sequence[int]]
) -> list[tuple[Menu, list[int]]]:
    """A menu for each group, and the total ranks that its options stand for.

    Raises:
        InputError: limits on the rank that contradict each other or a site's shape.
    """
    kinds: dict[tuple[tuple[tuple[int, int], bool], ...], tuple[Kind, list[int]]] = {}
    appetite = np.array(demand.weights) / max(demand.weights)
    made = []
    for group in members:
        sites = [evidence.sites[position] for position in group]
        signature = tuple(sorted((site.shape, site.expert is not None) for site in sites))
        if signature not in kinds:
            kinds[signature] = _kind(sites, demand, mean_rank(evidence, demand, cap), cut, settings)
        kind, totals = kinds[signature]
        weight = sum(appetite[position] * evidence.sites[position].rank_cost for position in group)
        made.append((Menu(kind, float(f"{weight:.12g}")), totals))  # rescaled weights then differ in no digit
    return made


def _least(sites: Sequence[SiteEvidence], demand: Demand, settings: AllocationSettings) -> int:
    if settings.min_rank is not None:
        return settings.min_rank
    return 0 if demand.spares_experts and all(site.expert is not None for site in sites) else 1


def _kind(
    sites: Sequence[SiteEvidence], demand: Demand, affordable: float, cut: Cut, settings: AllocationSettings
) -> tuple[Kind, list[int]]:
    """Every admissible total rank with its cost and utility."""
    multiple = cut.multiple
    least = -(-_least(sites, demand, settings) // multiple) * multiple
    if demand.utility == "log":
        least = max(least, multiple)  # the logarithm wants everyone to have something
    side = min(min(site.shape) for site in sites)
    most = settings.max_rank or max(least, int(CEILING * affordable) + multiple)
    most = min(most, side * (1 if sites[0].expert is not None else cut.max_experts))
    totals = list(range(least, most + 1, multiple))
    if not totals:
        raise InputError(
            f"site {sites[0].name!r}: no rank is at least {least}, at most {most} and a multiple of {multiple};"
            " see --min-rank, --max-rank and --rank-multiple"
        )
    costs = [sum(site_cost(site.shape, cut.ranks(total, site.expert)) for site in sites) for total in totals]
    return Kind(np.array(costs, dtype=float), utility(demand.utility, np.array(totals, dtype=float))), totals
