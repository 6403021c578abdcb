"""Evidence, problems and plans made by hand, for tests that work an answer out."""

import math

from planner import AllocationSettings, Plan, PlannedSite
from planner.evidence.evidence import Evidence, SiteEvidence
from planner.plan import Budget
from planner.sensitivity.report import Estimate, SensitivityReport, SiteSensitivity, Stability, Task
from planner.solver.budget import BudgetLimit, parse_budget
from planner.solver.problem import Problem
from planner.strategies.demand import Demand
from spectra.checkpoint.names import expert_index, parse_name, projection_type
from spectra.report import ModelInfo

MODEL = ModelInfo(name="model", parameters=100_000, fingerprint="sha256:x")


def exactly(mean):
    return Estimate(mean=mean, error=0.0)


def site_of(
    name,
    *,
    shape=(16, 8),
    alpha=math.nan,
    tasks=(),
    token_share=math.nan,
    all_share=math.nan,
    loss_reduction=(),
    effective_rank=(),
):
    """What is known of one site; numbers are certain unless they are given as estimates."""
    where = parse_name(name)
    certain = lambda values: tuple(one if isinstance(one, Estimate) else exactly(one) for one in values)  # noqa: E731
    (alpha,) = certain([alpha])
    return SiteEvidence(
        name=name, shape=shape, layer=(where.stack, where.layer), projection=projection_type(name), expert=expert_index(name),
        alpha=alpha, sensitivity=certain(tasks), token_share=token_share, all_share=all_share,
        loss_reduction=certain(loss_reduction), effective_rank=effective_rank,
    )  # fmt: skip


def evidence_of(*sites, **known):
    return Evidence(model=MODEL, sites=sites, **known)


def problem_of(evidence, budget="rank 4", *, demand=None, **settings):
    """A problem whose sites are all wanted alike, unless a demand is given."""
    demand = demand or Demand(weights=(1.0,) * len(evidence.sites))
    limit = budget
    if not isinstance(budget, BudgetLimit):
        limit = parse_budget(
            budget,
            parameters=MODEL.parameters,
            rank_cost=sum(site.rank_cost for site in evidence.sites),
            layers=len(evidence.layers),
        )
    return Problem(evidence=evidence, demand=demand, limit=limit, settings=AllocationSettings(**settings))


def planned(name, ranks, *, shape=(16, 8), **known):
    """One site of a plan."""
    site = {"top_k": min(2, len(ranks)), "weight": 1.0, "alpha": math.nan, "sensitivity": math.nan} | known
    return PlannedSite(name=name, shape=shape, ranks=ranks, **site)


def plan_of(*sites, notes=(), optimum=None, **settings):
    """A plan that spends exactly its budget."""
    parameters = sum(site.parameters for site in sites)
    chosen = AllocationSettings(**settings)
    spent = {"limit": parameters, "spent": parameters, "parameters": parameters}
    return Plan(
        model=MODEL, strategy=chosen.strategy.name, settings=chosen, version="0", made_from=(), optimum=optimum, sites=sites,
        budget=Budget(request=str(parameters), unit="parameters", **spent), notes=notes,
    )  # fmt: skip


def sensitivity_of(gradients, *, names=("task",), usage=None, stability=()):
    """A report of squared gradients, given as site -> one number per task; shapes are 4 x 2."""
    tasks = tuple(Task(name=name, examples=8, stability=tuple(Stability(**entry) for entry in stability)) for name in names)
    sites = []
    for name, values in gradients.items():
        each = tuple(map(exactly, values))
        known = {"squared_gradient": each, "magnitude": each, "taylor": each, "fisher": each}
        sites.append(SiteSensitivity(name=name, shape=(4, 2), usage=(usage or {}).get(name, ()), **known))
    return SensitivityReport(model=MODEL, tasks=tasks, sites=tuple(sites))
