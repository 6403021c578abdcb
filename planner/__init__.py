"""Allocation planning: evidence and a budget in, a plan of LoRA experts and ranks out. Loads torch only for `probe`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from planner.allocation import allocate
from planner.exporters import export
from planner.plan import Plan, PlannedSite, mismatches, require_match
from planner.sensitivity.report import SensitivityReport, join
from planner.settings import AllocationSettings
from planner.strategies import STRATEGIES

if TYPE_CHECKING:
    from planner.modules.labelled import labelled_losses
    from planner.modules.linear import linear_shape
    from planner.sensitivity.probe import probe

__all__ = [
    "STRATEGIES",
    "AllocationSettings",
    "Plan",
    "PlannedSite",
    "SensitivityReport",
    "allocate",
    "export",
    "join",
    "labelled_losses",
    "linear_shape",
    "mismatches",
    "probe",
    "require_match",
]

# What loads torch, and where it is: reading or making a plan needs none of it.
_LAZY = {
    "labelled_losses": "modules.labelled",
    "linear_shape": "modules.linear",
    "probe": "sensitivity.probe",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    return getattr(import_module(f"planner.{_LAZY[name]}"), name)
