"""Weight spectra: power-law exponents of every matrix of a checkpoint. Importing this package loads no torch."""

from spectra.analysis import analyze
from spectra.checkpoint import Checkpoint, open_checkpoint
from spectra.estimators import ESTIMATORS, fit
from spectra.report import SpectraReport
from spectra.tables import load_spectra
from spectra.values import InputError

__all__ = ["ESTIMATORS", "Checkpoint", "InputError", "SpectraReport", "analyze", "fit", "load_spectra", "open_checkpoint"]
