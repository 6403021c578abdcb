"""Allocation planning: evidence and a budget in, a plan of LoRA experts and ranks out. Loads torch only for `probe`."""

from typing import TYPE_CHECKING, Any

from planner.allocation import allocate
from planner.exporters import export
from planner.plan import Plan, PlannedSite, mismatches, require_match
from planner.sensitivity.report import SensitivityReport, join
from planner.strategies import STRATEGIES

if TYPE_CHECKING:
    from planner.modules.linear import linear_shape
    from planner.sensitivity.probe import example_losses, probe

__all__ = [
    "STRATEGIES",
    "Plan",
    "PlannedSite",
    "SensitivityReport",
    "allocate",
    "example_losses",
    "export",
    "join",
    "linear_shape",
    "mismatches",
    "probe",
    "require_match",
]


def __getattr__(name: str) -> Any:
    # Reading or making a plan needs no torch; measuring gradients does.
    if name in ("probe", "example_losses"):
        from planner.sensitivity import probe as sensitivity

        return getattr(sensitivity, name)
    if name == "linear_shape":
        from planner.modules.linear import linear_shape

        return linear_shape
    raise AttributeError(f"module 'planner' has no attribute {name!r}")
