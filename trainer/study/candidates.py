"""The plans that a study compares: the user's own, and the baselines that a reviewer would ask for."""

from collections.abc import Sequence
from pathlib import Path

import planner
from planner import AllocationSettings, Plan, require_match
from planner.solver.options import MOST_EXPERTS
from spectra import Checkpoint, InputError
from trainer.settings import Task
from trainer.study.report import BASELINE

TOLERANCE = 0.10  # plans may differ by this share in size: whole ranks rarely spend a budget to the last parameter


def candidates_of(paths: Sequence[Path], checkpoint: Checkpoint, task: Task, *, baselines: bool) -> dict[str, Plan]:
    """The plans by name, after a check that they are of one size, and the baselines.

    Raises:
        InputError: plans of unequal size or for another model, or names that clash.
    """
    plans = {path.stem: Plan.load(path) for path in paths}
    if len(plans) < len(paths):
        raise InputError("two plan files share a name; rename one")
    for plan in plans.values():
        require_match(plan, checkpoint)
    sizes = {name: plan.parameters for name, plan in plans.items()}
    if min(sizes.values()) < (1 - TOLERANCE) * max(sizes.values()):
        shown = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InputError(f"plans differ in size by more than {TOLERANCE:.0%}: {shown}; make them with one budget")
    found = baselines_of(max(sizes.values()), checkpoint, task) if baselines else {}
    if BASELINE not in found | plans:
        raise InputError(f"without baselines one of the plans must be called {BASELINE}.json: everything is compared with it")
    if len(found | plans) < 2:
        raise InputError("one plan and no baselines: there is nothing to compare")
    if clash := found.keys() & plans.keys():
        raise InputError(f"plan {sorted(clash)[0]!r} has the name of a baseline; rename the file")
    return plans | found


def baselines_of(size: int, checkpoint: Checkpoint, task: Task) -> dict[str, Plan]:
    """Uniform LoRA, a uniform mixture, a random plan and, for a classifier, the head alone.

    They are planned by module: as even as whole ranks allow, and as large as the plans; equal ranks everywhere could be much
    smaller. Where not every module can have a rank, whole projection types go without, so that a baseline stays even over the
    layers.

    Raises:
        InputError: too small a size for even one projection type.
    """

    def made(**settings: object) -> Plan:
        return planner.allocate(str(size), AllocationSettings.model_validate(settings), model=checkpoint)

    least = planner.allocate("rank 1", AllocationSettings(strategy="uniform"), model=checkpoint).parameters
    # Below rank 1 everywhere, whole projection types go without; `random` alone still chooses module by module.
    even: dict[str, object] = {"granularity": "module"} if size >= least else {"granularity": "projection", "min_rank": 0}
    try:
        lora = made(strategy="uniform", **even)
    except InputError as error:
        raise InputError(
            f"plans of {size:,} parameters are smaller than rank 1 at any one projection type, so no baseline is even over the"
            f" layers; leave `baselines` out and give a {BASELINE}.json of your own"
        ) from error
    found = {
        BASELINE: lora,
        "uniform-mixture": made(strategy="uniform", max_experts=MOST_EXPERTS, **even),
        "random": made(strategy="random", max_experts=1, **even | {"granularity": "module"}),
    }
    return found | ({"head-only": lora.without_adapters()} if task == "classification" else {})
