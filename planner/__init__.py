"""Allocation planning: evidence and a budget in, a plan of LoRA experts and ranks out. Loads torch only for `probe`."""

from typing import TYPE_CHECKING, Any

from planner.allocation import allocate
from planner.plan import Plan, PlannedSite, mismatches, require_match
from planner.reports import SensitivityReport, join
from planner.strategies import STRATEGIES

if TYPE_CHECKING:
    from planner.sensitivity import probe

__all__ = ["STRATEGIES", "Plan", "PlannedSite", "SensitivityReport", "allocate", "join", "mismatches", "probe", "require_match"]


def __getattr__(name: str) -> Any:
    # Reading or making a plan needs no torch; measuring gradients does.
    if name == "probe":
        from planner.sensitivity import probe

        return probe
    raise AttributeError(f"module 'planner' has no attribute {name!r}")
