"""Weight spectra: power-law exponents of every matrix of a checkpoint. Importing this package loads no torch."""

from spectra.analysis import analyze, model_info
from spectra.checkpoint import Checkpoint, open_checkpoint
from spectra.estimators import fit
from spectra.report import ModelInfo, SpectraReport
from spectra.sites import place, resolve
from spectra.tables import load_spectra
from spectra.values import Document, InputError, Measured, Value, read_json, write_atomic

__all__ = [
    "Checkpoint",
    "Document",
    "InputError",
    "Measured",
    "ModelInfo",
    "SpectraReport",
    "Value",
    "analyze",
    "fit",
    "load_spectra",
    "model_info",
    "open_checkpoint",
    "place",
    "read_json",
    "resolve",
    "write_atomic",
]
