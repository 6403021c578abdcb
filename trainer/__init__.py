"""Training: builds the mixture of LoRA experts that a plan describes, fine-tunes it, and evaluates it.

Reading a run's report needs no torch, so what does is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainer.report import Evaluation, RunReport
from trainer.settings import DataSettings, MixtureSettings, ProbeSettings, TrainSettings

if TYPE_CHECKING:
    from trainer.adapters.merge import merge
    from trainer.adapters.store import load_adapters
    from trainer.data.sampling import load_sample
    from trainer.evaluation.evaluate import evaluate
    from trainer.layers.inject import apply_plan
    from trainer.layers.mixture import MixtureLinear
    from trainer.study.compare import compare
    from trainer.training.train import train

__all__ = [
    "DataSettings",
    "Evaluation",
    "MixtureLinear",
    "MixtureSettings",
    "ProbeSettings",
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

# What loads torch, and where it is.
_LAZY = {
    "MixtureLinear": "layers.mixture",
    "apply_plan": "layers.inject",
    "compare": "study.compare",
    "evaluate": "evaluation.evaluate",
    "load_adapters": "adapters.store",
    "load_sample": "data.sampling",
    "merge": "adapters.merge",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f"trainer.{_LAZY[name]}"), name)
