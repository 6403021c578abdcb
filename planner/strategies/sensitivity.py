"""`sensitivity`: rank in proportion to sensitivity, trusted as it stands.

The plainest use of gradients, and a warning: on SmolLM2 it lost to random modules at a quarter of rank 1, on the pilot's tasks to
uniform by points (docs/experiments).
"""

import numpy as np

from planner.evidence.evidence import Evidence
from planner.strategies.demand import Demand
from spectra.core.methods import NoSettings


def sensitivity(evidence: Evidence, settings: NoSettings) -> Demand:
    """Rank proportional to the chosen statistic per parameter, tasks weighing equally.

    With a minimum rank of 0 the utility saturates instead, so that a scarce budget leaves modules out.

    Raises:
        InputError: no sensitivity.
    """
    evidence.require("sensitivity", "sensitivity")
    tasks = evidence.sensitivities()
    shares = (tasks / np.maximum(tasks.sum(axis=0), np.finfo(float).tiny)).mean(axis=1)
    return Demand(weights=tuple(shares.tolist()), utility="log", without_floor="log1p")
