"""Training: builds the mixture of LoRA experts that a plan describes, fine-tunes it, and evaluates it.

Reading a run's report needs no torch, so what does is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainer.reports import EVALUATION, REPORT, Evaluation, RunReport, TrainSettings

if TYPE_CHECKING:
    from trainer.adapters import load_adapters
    from trainer.build import apply_plan
    from trainer.compare import compare
    from trainer.evaluate import evaluate
    from trainer.merge import merge
    from trainer.mixture import MixtureLinear
    from trainer.sampling import load_sample
    from trainer.train import train

__all__ = [
    "EVALUATION",
    "REPORT",
    "Evaluation",
    "MixtureLinear",
    "RunReport",
    "TrainSettings",
    "apply_plan",
    "compare",
    "evaluate",
    "load_adapters",
    "load_sample",
    "merge",
    "train",
]

_HOMES = {
    "MixtureLinear": "mixture",
    "apply_plan": "build",
    "compare": "compare",
    "evaluate": "evaluate",
    "load_adapters": "adapters",
    "load_sample": "sampling",
    "merge": "merge",
    "train": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    value = getattr(import_module(f"trainer.{_HOMES[name]}"), name)
    # Importing a submodule binds its name here: trainer.train must stay the function, not become the module.
    globals()[name] = value
    return value
