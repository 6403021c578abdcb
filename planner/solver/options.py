"""The solver's options: for every group of sites a set of total ranks, each with its experts, cost and value."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.evidence.evidence import SiteEvidence
from planner.solver.budget import widest_rank
from planner.solver.knapsack import ItemTable, OptionSet
from planner.solver.problem import Problem
from planner.strategies.demand import utility
from spectra import InputError

Indices = NDArray[np.intp]
DEFAULT_EXPERT_RANK = 8  # what AlphaLoRA, LoRA-SMoE and MoLA train with
MOST_EXPERTS = 8  # by default
CEILING = 8  # by default no site gets more than this many times the affordable mean rank


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSplit:
    """How a site's total rank is split into experts."""

    expert_rank: int
    """Rank an expert grows to before the next one is added."""
    max_experts: int
    multiple: int

    def ranks(self, total: int, expert: int | None = None) -> tuple[int, ...]:
        """Split a total rank, a multiple of `multiple`, into experts that differ by at most one multiple.

        Args:
            total: rank of all experts together.
            expert: a routed expert of the base model, which is itself the expert: it gets one LoRA.
        """
        if total == 0:
            return ()
        count = 1 if expert is not None else int(self.experts(np.array(total)))
        # The rank is divided in units of the multiple, the larger experts first.
        units, larger = divmod(total // self.multiple, count)
        return ((units + 1) * self.multiple,) * larger + (units * self.multiple,) * (count - larger)

    def experts(self, totals: Indices) -> Indices:
        """How many experts each total rank has: as many as it fills, rounded up."""
        found: Indices = np.minimum(self.max_experts, -(-totals // self.expert_rank))
        return found

    def costs(self, shape: tuple[int, int], totals: Indices, expert: int | None = None) -> Indices:
        """`site_cost` of the ranks of every total."""
        counts = np.minimum(totals, 1) if expert is not None else self.experts(totals)
        found: Indices = totals * sum(shape) + np.where(counts > 1, counts, 0) * shape[1]
        return found


def expert_split(problem: Problem) -> ExpertSplit:
    """Choose the experts' rank: as asked for, else 8, or for a tight budget what leaves an average site two experts.

    Raises:
        InputError: a rank that no site can have, or that is no multiple.
    """
    settings, rank = problem.settings, problem.settings.expert_rank
    if rank is None:
        rank = max(_default_rank(problem), settings.rank_multiple)
    if rank > (widest := min(widest_rank(site.shape) for site in problem.wanted)):
        raise InputError(f"`expert_rank` {rank} gives a LoRA more parameters than the smallest matrix has; at most {widest} fits")
    if rank % settings.rank_multiple:
        raise InputError(f"`expert_rank` {rank} is no multiple of `rank_multiple` {settings.rank_multiple}")
    # Whoever gives an expert's rank, or a budget in experts, has asked for mixtures.
    plain = problem.demand.plain and settings.expert_rank is None and problem.limit.unit == "parameters"
    most = settings.max_experts or (1 if plain else MOST_EXPERTS)
    return ExpertSplit(expert_rank=rank, max_experts=most, multiple=settings.rank_multiple)


def _default_rank(problem: Problem) -> int:
    if problem.limit.unit == "experts" or problem.demand.experts is not None:
        return DEFAULT_EXPERT_RANK
    half = min(int(problem.mean_rank / 2), *(widest_rank(site.shape) for site in problem.wanted))
    return min(DEFAULT_EXPERT_RANK, 1 << max(0, half.bit_length() - 1))  # the largest power of two within the half


def option_sets(problem: Problem, split: ExpertSplit) -> list[tuple[OptionSet, list[int]]]:
    """A set of options for each group, and the total ranks that they stand for.

    Raises:
        InputError: limits on the rank that contradict each other or a site's shape.
    """
    # Groups of one signature share their item table: a large model has tens of thousands of groups and a handful of signatures.
    # So a signature has to hold everything that `_item_table` reads of a site.
    tables: dict[tuple[tuple[tuple[int, int], bool], ...], tuple[ItemTable, list[int]]] = {}
    made = []
    for group in problem.groups:
        sites = [problem.evidence.sites[position] for position in group]
        signature = tuple(sorted((site.shape, site.expert is not None) for site in sites))
        if signature not in tables:
            tables[signature] = _item_table(problem, sites, split)
        table, totals = tables[signature]
        weight = sum(problem.relative_weights[at] * problem.evidence.sites[at].rank_cost for at in group)
        made.append((OptionSet(table, float(f"{weight:.12g}")), totals))  # rescaled weights then differ in no digit
    return made


def _least(problem: Problem, sites: Sequence[SiteEvidence]) -> int:
    if problem.settings.min_rank is not None:
        return problem.settings.min_rank
    return 0 if problem.demand.spares_routed and all(site.expert is not None for site in sites) else 1


def _item_table(problem: Problem, sites: Sequence[SiteEvidence], split: ExpertSplit) -> tuple[ItemTable, list[int]]:
    """Every admissible total rank with its cost and utility."""
    multiple = split.multiple
    least = -(-_least(problem, sites) // multiple) * multiple
    if problem.utility == "log":
        least = max(least, multiple)  # the logarithm wants everyone to have something
    most = problem.settings.max_rank or max(least, int(CEILING * problem.mean_rank) + multiple)
    # No LoRA is larger than its matrix, and a routed expert gets only one. A group may hold both kinds.
    most = min(most, *(widest_rank(site.shape) * (1 if site.expert is not None else split.max_experts) for site in sites))
    totals = list(range(least, most + 1, multiple))
    if not totals:
        raise InputError(
            f"site {sites[0].name!r}: no rank is at least {least}, at most {most} and a multiple of {multiple};"
            " change `min_rank`, `max_rank` or `rank_multiple`"
        )
    ranks = np.array(totals)
    costs = sum(split.costs(site.shape, ranks, site.expert) for site in sites)
    return ItemTable(np.array(costs, dtype=float), utility(problem.utility, np.array(totals, dtype=float))), totals
