"""`lora-smoe`: experts by counting tasks (Xu and Diao, arXiv 2505.06272).

A module gets one expert for every task in which its squared gradient is among the top 60 per cent of its projection type, and no
adapter at all if there is no such task. Differences from the released code, which clips gradients and updates weights while it
measures, are in docs/method.md.
"""

import numpy as np

from planner.evidence import Evidence
from planner.strategies.demand import Demand

TOP_PERCENT = 60.0  # the released default for grouping by projection type


def lora_smoe(evidence: Evidence) -> Demand:
    """As many experts as tasks that want the site; the budget only decides their rank, the same for all.

    Raises:
        InputError: no sensitivity.
    """
    evidence.require("sensitivity", "lora-smoe")
    sensitivity = np.array([site.sensitivity for site in evidence.sites])
    counts = np.zeros(len(evidence.sites), dtype=int)
    types = np.array([site.projection for site in evidence.sites])
    for projection in np.unique(types):
        members = types == projection
        thresholds = np.percentile(sensitivity[members], 100 - TOP_PERCENT, axis=0)
        counts[members] = (sensitivity[members] > thresholds).sum(axis=1)
    return Demand(weights=tuple(counts.astype(float).tolist()), granularity="model", experts=tuple(counts.tolist()))
