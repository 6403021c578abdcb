"""`lora-smoe`: capacity by counting tasks (Xu and Diao, arXiv 2505.06272).

A module counts the tasks in which its squared gradient is among the top 60 per cent of its group; without any it gets no adapter.
Differences from the released code, which clips gradients and updates weights while it measures, are in docs/reference/method.md.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from planner.evidence.evidence import Evidence, SiteEvidence
from planner.strategies.demand import Demand
from spectra.checkpoint.chosen import is_attention
from spectra.core.documents import Value


class LoraSmoeSettings(Value):
    """The rule's own settings."""

    grouping: Literal["projection", "block", "all"] = "projection"
    """Modules that compete: those of one projection type, those of attention and of the MLP, or all."""
    top_percent: Annotated[float, Field(gt=0, le=100)] = 60.0
    """Share of a group, in per cent, whose squared gradients count as large."""
    parity: bool = False
    """Give literally one expert for every task that wants the module, whatever the budget would buy."""


def lora_smoe(evidence: Evidence, settings: LoraSmoeSettings) -> Demand:
    """Rank in proportion to the number of tasks that want the site; with parity that many experts, literally.

    Raises:
        InputError: no sensitivity.
    """
    evidence.require("sensitivity", "lora-smoe")
    sensitivity = evidence.sensitivities()
    if settings.grouping != "projection":  # groups that mix shapes compare raw sums, as released
        sensitivity = sensitivity * np.array([[site.shape[0] * site.shape[1]] for site in evidence.sites])
    groups = np.array([_group(site, settings.grouping) for site in evidence.sites])
    counts = np.zeros(len(evidence.sites), dtype=int)
    for group in np.unique(groups):
        members = groups == group
        thresholds = np.percentile(sensitivity[members], 100 - settings.top_percent, axis=0)
        # Strictly above: a group of one is never above its own percentile, and equal gradients count for nobody.
        counts[members] = (sensitivity[members] > thresholds).sum(axis=1)
    experts = tuple(counts.tolist()) if settings.parity else None
    return Demand(weights=tuple(counts.astype(float).tolist()), utility="log", experts=experts)


def _group(site: SiteEvidence, grouping: str) -> str:
    if grouping == "projection":
        return site.projection
    # Adaptable modules are projections inside layers, so whatever is not attention is the MLP.
    return "all" if grouping == "all" else "attention" if is_attention(site.name) else "mlp"
