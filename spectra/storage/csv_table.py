"""Spectra reports from tables: people who bring their own alphas, and weightwatcher's details table.

Two layouts are read. The plain one has columns `name`, `rows`, `cols`, `alpha`. weightwatcher's has `longname`, `N`, `M`,
`alpha`; it keeps the larger side as N and forgets which side is the input, so square matrices aside the shapes need the model to
be exact.
"""

import csv
import io
import math
from collections import Counter
from pathlib import Path

from spectra.core.errors import InputError
from spectra.core.files import write_atomic
from spectra.estimators.fits import FitStatus
from spectra.report import ModelInfo, SiteSpectrum, SpectraReport, Uncertainty

PLAIN = ("name", "rows", "cols", "alpha")
LARGEST_ALPHA = 1e6  # more is taken for somebody's mark of a failed fit, which would outweigh all others
WEIGHTWATCHER = ("longname", "N", "M", "alpha")


def to_csv(report: SpectraReport, path: str | Path) -> None:
    """Write a report's sites as a table that `load_spectra` reads again: name, rows, cols, alpha, and everything else.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    rows = [_row(site) for site in report.sites]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def _row(site: SiteSpectrum) -> dict[str, object]:
    own = site.model_dump(include={"alpha", "x_min", "n_tail", "ks", "sigma", "status", "n_eigenvalues", "n_cut"})
    fits = {f"alpha_{name}": fit.alpha for name, fit in site.fits.items()}
    about = {"name": site.name, "rows": site.shape[0], "cols": site.shape[1]}
    return about | own | fits | (site.metrics.model_dump() if site.metrics else {})


def load_spectra(path: str | Path) -> SpectraReport:
    """Read a report: a table if the file ends in `.csv`, else the JSON that `analyze` wrote.

    Raises:
        InputError: the file is missing, not of that form, or a row has no usable name, shape or alpha.
    """
    return from_table(path) if Path(path).suffix == ".csv" else SpectraReport.load(path)


def from_table(path: str | Path) -> SpectraReport:
    """Read a CSV of alphas. Extra columns are ignored; weightwatcher's failed fits (alpha -1) become NaN."""
    columns, rows = _read(path)
    layout = WEIGHTWATCHER if set(WEIGHTWATCHER) <= set(columns) else PLAIN
    if missing := [column for column in layout if column not in columns]:
        raise InputError(f"{path}: column {missing[0]!r} is missing; needed are {', '.join(PLAIN)}")
    sites = tuple(_site(f"{path}:{line}", *(row[column] for column in layout)) for line, row in rows)
    if not sites:
        raise InputError(f"{path}: no rows")
    name, times = Counter(site.name for site in sites).most_common(1)[0]
    if times > 1:
        raise InputError(f"{path}: {name!r} appears {times} times")
    parameters = sum(site.shape[0] * site.shape[1] for site in sites)
    model = ModelInfo(name=Path(path).stem, parameters=parameters, fingerprint=None)
    return SpectraReport(model=model, settings=None, sites=sites, skipped=())


def _read(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and each row with the line it ends on."""
    try:
        # utf-8-sig: a spreadsheet's byte order mark would otherwise be part of the first column's name. restval: what a short
        # row lacks then counts as left empty.
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table: {error}") from None


def _site(where: str, name: str, rows: str, cols: str, alpha: str) -> SiteSpectrum:
    if not name:
        raise InputError(f"{where}: the module has no name")
    shape = (_side(where, rows), _side(where, cols))
    value = _number(where, alpha) if alpha else math.nan
    if value > LARGEST_ALPHA:
        raise InputError(f"{where}: alpha {alpha} is no exponent of a spectrum; leave the field empty for a failed fit")
    return SiteSpectrum(
        name=name,
        module=name,
        shape=shape,
        # False for weightwatcher's -1, for 0 and for NaN: all of them are failed fits.
        alpha=value if value > 0 else math.nan,
        x_min=math.nan,
        n_tail=0,
        ks=math.nan,
        sigma=math.nan,
        status=FitStatus.NOT_GIVEN if value > 0 else FitStatus.NO_EXPONENT,
        n_eigenvalues=min(shape),
        n_cut=0,
        fits={},
        metrics=None,
        density=None,
        uncertainty=Uncertainty(),
    )


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is not a number") from None


def _side(where: str, text: str) -> int:
    number = _number(where, text)
    if not number.is_integer() or not 1 <= number < 2**31:
        raise InputError(f"{where}: {text!r} is not the side of a matrix")
    return int(number)
