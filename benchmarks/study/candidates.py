"""Rules that were tried: each says how much every site wants, in the frame of `planner.strategies`.

Those that did not earn a place in the product stay here, so that the study can be rerun.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from planner.evidence.evidence import Evidence, SiteEvidence
from planner.sensitivity.report import Estimate
from planner.strategies import Demand
from planner.strategies.combined import combined
from planner.strategies.demand import Granularity, Utility
from planner.strategies.random import RandomSettings, random
from planner.strategies.uniform import uniform
from spectra.core.methods import Method, NoSettings

Rule = Callable[[Evidence, Any], Demand]
ATTENTION = ("query", "key", "value", "attention.output.dense", "q_proj", "k_proj", "v_proj", "o_proj")


def demand(weights: np.ndarray, utility: Utility = "log1p") -> Demand:
    """A demand by module."""
    return Demand(weights=tuple(float(weight) for weight in weights), utility=utility)


def cheap(evidence: Evidence, settings: NoSettings) -> Demand:
    """Maximise the plain sum of log(1 + rank): every rank counts the same, so cheap modules get more."""
    return demand(1 / np.array([site.rank_cost for site in evidence.sites]))


def outputs(evidence: Evidence, settings: NoSettings) -> Demand:
    """A rank counts by its share of outputs, d_out / (d_out + d_in): B learns from the first step on, A only through B."""
    return demand(np.array([site.shape[0] / site.rank_cost for site in evidence.sites]))


def _only(names: tuple[str, ...]) -> Rule:
    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        return demand(np.array([float(site.projection.endswith(names)) for site in evidence.sites]))

    return rule


def mlp(evidence: Evidence, settings: NoSettings) -> Demand:
    """The two projections of the MLP only."""
    return demand(np.array([float(not site.projection.endswith(ATTENTION)) for site in evidence.sites]))


def _depth(direction: float) -> Rule:
    """Weights from 1 to 3, rising or falling with the layer."""

    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        depth = np.array([site.layer[1] for site in evidence.sites], dtype=float)
        along = depth / depth.max()
        return demand(1 + 2 * (along if direction > 0 else 1 - along), "log")

    return rule


def _cheap(power: float, depth: float = 0.0, evidence_power: float = 0.0) -> Rule:
    """Weights cost^-power, times 3 to 1 from the first layer to the last if asked, times the evidence's product to a power."""

    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        cost = np.array([site.rank_cost for site in evidence.sites], dtype=float)
        layer = np.array([site.layer[1] for site in evidence.sites], dtype=float)
        product = evidence.relative_alpha() * evidence.relative_sensitivity()
        return demand(cost**-power * (1 + depth * (1 - layer / layer.max())) * product**evidence_power)

    return rule


def _above(share: float, rule: Rule) -> Rule:
    """A rule in the layers above a share of the depth only: a backward pass ends at the lowest of them."""

    def above(evidence: Evidence, settings: NoSettings) -> Demand:
        found = rule(evidence, settings)
        depth = np.array([site.layer[1] for site in evidence.sites], dtype=float)
        kept = np.where(depth >= share * (depth.max() + 1), found.weights, 0.0)
        return replace(found, weights=tuple(kept.tolist()), granularity="module")

    return above


def _use(experts: float, dense: float = 0.0) -> Rule:
    """Rank by the share of tokens that pass a module, to a power: among routed experts, and of the mean expert beside the rest.

    With both powers 1 the plan maximises the mean over tokens of log(1 + rank), summed over the modules that a token passes.
    """

    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        share = np.array([site.token_share for site in evidence.sites])
        mean = float(np.nanmean(share))
        return demand(np.where(np.isnan(share), mean**-dense, (np.nan_to_num(share) / mean) ** experts))

    return rule


def random_some(evidence: Evidence, settings: RandomSettings) -> Demand:
    """`random` where a scarce budget leaves modules out."""
    return replace(random(evidence, settings), utility="log1p")


def _signal(alpha: float, gradient: float) -> Rule:
    """Powers of alpha and of the squared gradient, within a projection type and shrunk by their noise."""

    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        return demand(evidence.relative_alpha() ** alpha * evidence.relative_sensitivity() ** gradient)

    return rule


def _by(granularity: Granularity) -> Rule:
    """`combined` for whole layers or projection types."""
    return lambda evidence, settings: replace(combined(evidence, settings), granularity=granularity)


def full(evidence: Evidence, settings: NoSettings) -> Demand:
    """`combined`, trusting a trial run in full."""
    before = np.array(prior(evidence, settings).weights)
    return replace(combined(evidence, settings), weights=tuple(evidence.weights(before, 1.0).tolist()))


def _pooled(key: Callable[[SiteEvidence], object]) -> Rule:
    """`combined`, the trial run's loss reduction per parameter averaged over all sites with the same key."""

    def rule(evidence: Evidence, settings: NoSettings) -> Demand:
        groups: dict[object, list[SiteEvidence]] = {}
        for site in evidence.sites:
            groups.setdefault(key(site), []).append(site)
        return combined(replace(evidence, sites=tuple(_shared(site, groups[key(site)]) for site in evidence.sites)), settings)

    return rule


def _shared(site: SiteEvidence, group: list[SiteEvidence]) -> SiteEvidence:
    """The site with its share of the group's loss reduction, by its cost; errors as if sites and shares were independent."""
    share = site.rank_cost / sum(other.rank_cost for other in group)
    tasks = zip(*(other.loss_reduction for other in group), strict=True)
    loss_reduction = tuple(
        Estimate(mean=share * sum(one.mean for one in task), error=share * sum(one.error**2 for one in task) ** 0.5)
        for task in tasks
    )
    return replace(site, loss_reduction=loss_reduction)


def tempered(evidence: Evidence, settings: NoSettings) -> Demand:
    """`combined`, half as far from uniform: what a short run says, doubted once more."""
    found = combined(evidence, settings)
    return replace(found, weights=tuple(weight**0.5 for weight in found.weights))


def prior(evidence: Evidence, settings: NoSettings) -> Demand:
    """`combined` without its trial run."""
    sites = tuple(replace(site, loss_reduction=()) for site in evidence.sites)
    return combined(replace(evidence, sites=sites), settings)


RULES: dict[str, Rule] = {
    "alpha": _signal(2.0, 0.0),
    "inverse-alpha": _signal(-2.0, 0.0),
    "gradient": _signal(0.0, 0.5),
    "product": _signal(2.0, 0.5),
    "by-layer": _by("layer"),
    "by-projection": _by("projection"),
    "random-some": random_some,
    "full": full,
    "layers": _pooled(lambda site: site.layer),
    "types": _pooled(lambda site: site.projection),
    "tempered": tempered,
    "prior": prior,
    "outputs": outputs,
    "cheap": cheap,
    "cheap-half": _cheap(0.5),
    "cheap-falling": _cheap(1.0, depth=2.0),
    "cheap-evidence": _cheap(1.0, evidence_power=0.25),
    "cheap-inverse": _cheap(1.0, evidence_power=-0.25),
    "attention": _only(ATTENTION),
    "query-value": _only(("query", "value")),
    "value-output": _only(("value", "attention.output.dense")),
    "mlp": mlp,
    "rising": _depth(+1),
    "falling": _depth(-1),
    "use-experts": _use(1.0),
    "use-experts-half": _use(0.5),
    "use-dense": _use(0.0, 1.0),
    "use": _use(1.0, 1.0),
    "use-half": _use(0.5, 0.5),
    "upper-half": _above(1 / 2, uniform),
    "combined-upper-half": _above(1 / 2, combined),
    "combined-upper-third": _above(2 / 3, combined),
}
CANDIDATES = {name: Method(rule, RandomSettings if rule is random_some else NoSettings) for name, rule in RULES.items()}
