"""`plan data`: what a file is to a model, before anything is trained on it."""

from trainer.preview.measure import measure
from trainer.preview.report import DataReport

__all__ = ["DataReport", "measure"]
