"""`effective-rank`: rank where the task's gradient has many directions (R. Lin, early-gradient-spectra-lora, 2026).

The mean gradient of each module, whitened by the covariance of its inputs, has an effective rank (whitened.py):
one where the task pulls in a single direction. Modules are compared within their projection type only, as the author found
necessary; every type keeps the share of rank that uniform LoRA gives it. On SmolLM2, below rank 1, it lost to random modules
(docs/experiments/where-capacity-goes.md).
"""

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.methods import NoSettings


def effective_rank(evidence: Evidence, settings: NoSettings) -> Demand:
    """Rank in proportion to the effective rank of the whitened gradient over its type's mean, tasks weighing equally.

    Raises:
        InputError: no sensitivity, or one without effective ranks.
    """
    evidence.require("sensitivity", "effective-rank")
    weights = evidence.relative_effective_rank()
    return Demand(weights=tuple(weights.tolist()), utility="log", without_floor="log1p", plain=True)
