"""Weight spectra: power-law exponents of every matrix of a checkpoint. Importing this package loads no torch."""

from spectra.analysis import analyze
from spectra.checkpoint.folder import Checkpoint, open_checkpoint
from spectra.core.errors import InputError
from spectra.estimators import ESTIMATORS, fit
from spectra.report import SpectraReport
from spectra.settings import AnalysisSettings
from spectra.storage.csv_table import load_spectra

__version__ = "0.1.0"  # the only place; a checkout that nobody installed knows it too

__all__ = [
    "ESTIMATORS",
    "AnalysisSettings",
    "Checkpoint",
    "InputError",
    "SpectraReport",
    "analyze",
    "fit",
    "load_spectra",
    "open_checkpoint",
]
