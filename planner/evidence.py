"""Evidence: what is known about every site that could be adapted, joined by name from the reports.

The one place that decides which modules are sites, and what a failed fit means: it counts as its projection type's mean,
so it neither attracts nor repels capacity.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.reports import SensitivityReport
from spectra import Checkpoint, InputError, SpectraReport
from spectra.analysis import model_info
from spectra.report import ModelInfo, SiteSpectrum
from spectra.sites import place, resolve

T = TypeVar("T")
Shape = tuple[int, int]

# Matrices inside numbered layers that are no linear projections: positional tables and the routers of mixture-of-experts models.
_NO_PROJECTION = re.compile(r"(^|[._])(embed\w*|\w*embeddings?|relative_attention_bias|\w*norm|router|gate)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvidence:
    """One adaptable site. `alpha` is NaN and `sensitivity` empty where nothing was measured."""

    name: str
    shape: tuple[int, int]
    layer: tuple[str, int]
    projection: str
    alpha: float
    sensitivity: tuple[float, ...]
    """Mean squared gradient per parameter, one number per task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All adaptable sites of one model, in network order."""

    model: ModelInfo
    sites: tuple[SiteEvidence, ...]
    notes: tuple[str, ...] = ()
    """What a plan made from this should say."""

    @property
    def layers(self) -> Mapping[tuple[str, int], list[int]]:
        """Layer -> positions of its sites."""
        groups: dict[tuple[str, int], list[int]] = {}
        for position, site in enumerate(self.sites):
            groups.setdefault(site.layer, []).append(position)
        return groups

    def layer_alphas(self) -> list[float]:
        """For every site the plain mean of its layer's alphas, failed fits left out; a layer without any gets the mean of all."""
        alphas = np.array([site.alpha for site in self.sites])
        overall = float(np.nanmean(alphas))
        means = np.full(alphas.size, overall)
        for members in self.layers.values():
            if np.isfinite(alphas[members]).any():
                means[members] = np.nanmean(alphas[members])
        return [float(mean) for mean in means]

    def require(self, what: str, strategy: str) -> None:
        """Raise an InputError if a strategy lacks the evidence it lives on; `what` is `spectra` or `sensitivity`."""
        missing = {"spectra": all(math.isnan(site.alpha) for site in self.sites), "sensitivity": not self.sites[0].sensitivity}
        if missing[what]:
            raise InputError(f"strategy {strategy!r} needs --{what} with measured values: make it with plan {MAKERS[what]}")
        if what == "sensitivity" and not any(value > 0 for site in self.sites for value in site.sensitivity):
            raise InputError(f"strategy {strategy!r}: every gradient in the sensitivity report is zero")


UNSURE_OF_SHAPES = "shapes come from a table of alphas, which may not say which side is the input; make sure with plan check"
MAKERS = {"spectra": "analyze", "sensitivity": "probe"}


def is_adaptable(name: str) -> bool:
    """Whether a matrix is a projection inside a numbered layer."""
    return place(name) is not None and not _NO_PROJECTION.search(name)


def gather(
    spectra: SpectraReport | None = None, sensitivity: SensitivityReport | None = None, checkpoint: Checkpoint | None = None
) -> Evidence:
    """Join what is known.

    Sites, names and shapes come from the checkpoint if given, else from a report made from one, else from a table of alphas.

    Raises:
        InputError: nothing given, no adaptable site, reports of different models, or a site that only one side knows.
    """
    _require_one_model(spectra, sensitivity, checkpoint)
    model, shapes = _inventory(spectra, sensitivity, checkpoint)
    alphas = _joined(shapes, _alphas(spectra), "spectra") if spectra else {}
    gradients = _joined(shapes, _gradients(sensitivity), "sensitivity") if sensitivity else {}
    sites = tuple(_site(name, shapes[name], alphas.get(name, math.nan), gradients.get(name, ())) for name in shapes)
    known_by_table = model.fingerprint is None and any(site.shape[0] != site.shape[1] for site in sites)
    return Evidence(model=model, sites=sites, notes=(UNSURE_OF_SHAPES,) if known_by_table else ())


def _site(name: str, shape: Shape, alpha: float, sensitivity: tuple[float, ...]) -> SiteEvidence:
    where = place(name)
    assert where is not None  # the inventory holds adaptable names only
    layer = (where.stack, where.layer)
    return SiteEvidence(name=name, shape=shape, layer=layer, projection=where.projection, alpha=alpha, sensitivity=sensitivity)


def _require_one_model(
    spectra: SpectraReport | None, sensitivity: SensitivityReport | None, checkpoint: Checkpoint | None
) -> None:
    prints = {
        "spectra": spectra.model.fingerprint if spectra else None,
        "sensitivity": sensitivity.model.fingerprint if sensitivity else None,
        "model": checkpoint.fingerprint if checkpoint else None,
    }
    known = [(source, fingerprint) for source, fingerprint in prints.items() if fingerprint]
    for source, fingerprint in known[1:]:
        if fingerprint != known[0][1]:
            raise InputError(f"--{known[0][0]} and --{source} are of different models: {known[0][1]} and {fingerprint}")


def _inventory(
    spectra: SpectraReport | None, sensitivity: SensitivityReport | None, checkpoint: Checkpoint | None
) -> tuple[ModelInfo, dict[str, Shape]]:
    if checkpoint is not None:
        model, matrices = model_info(checkpoint), dict(checkpoint.modules())
    elif spectra is not None and (spectra.model.fingerprint or sensitivity is None):
        model, matrices = spectra.model, {name: shape for name, (shape, _) in _alphas(spectra).items()}
    elif sensitivity is not None:
        model, matrices = sensitivity.model, {site.name: site.shape for site in sensitivity.sites}
    else:
        raise InputError("nothing to allocate from: give --spectra, --sensitivity or --model")
    shapes = {name: shape for name, shape in matrices.items() if is_adaptable(name)}
    if not shapes:
        raise InputError(f"{model.name}: no linear module inside a numbered layer")
    return model, shapes


def _alphas(spectra: SpectraReport) -> dict[str, tuple[Shape, float]]:
    """Module -> shape and alpha. The parts of a fused module, which an adapter cannot tell apart, count by their mean."""
    parts: dict[str, list[SiteSpectrum]] = {}
    for site in spectra.sites:
        if is_adaptable(site.module):
            parts.setdefault(site.module, []).append(site)
    return {module: (_joint_shape(sites), _mean([site.alpha for site in sites])) for module, sites in parts.items()}


def _joint_shape(parts: Sequence[SiteSpectrum]) -> Shape:
    return sum(part.shape[0] for part in parts), parts[0].shape[1]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _gradients(sensitivity: SensitivityReport) -> dict[str, tuple[Shape, tuple[float, ...]]]:
    return {site.name: (site.shape, site.per_parameter) for site in sensitivity.sites}


def _joined(shapes: Mapping[str, Shape], known: Mapping[str, tuple[Shape, T]], report: str) -> dict[str, T]:
    """The report's value for every site; both sides must know the same modules with the same shapes."""
    found = resolve(known, list(shapes))
    if unknown := [name for name in known if name not in found]:
        raise InputError(f"site {unknown[0]!r} of the {report} report is no module of the model")
    by_site = {found[name]: value for name, value in known.items()}
    for name, shape in shapes.items():
        if name not in by_site:
            raise InputError(f"site {name!r} is missing from the {report} report")
        # Unordered: weightwatcher's table does not say which side is the input.
        if sorted(by_site[name][0]) != sorted(shape):
            raise InputError(
                f"site {name!r} has shape {list(by_site[name][0])} in the {report} report, but {list(shape)} in the model"
            )
    return {name: value for name, (_, value) in by_site.items()}


def within_type(sites: Sequence[SiteEvidence], values: Sequence[float]) -> NDArray[np.float64]:
    """Divide each value by the geometric mean of its projection type, because shape moves both signals.

    Args:
        sites: n sites.
        values: n positive numbers; NaN or non-positive ones are unknown.

    Returns:
        Shape (n,), geometric mean 1 within each type; unknown values become 1.
    """
    raw = np.asarray(values, dtype=np.float64)
    logs = np.full(raw.shape, np.nan)
    known = np.isfinite(raw) & (raw > 0)
    logs[known] = np.log(raw[known])
    types = np.array([site.projection for site in sites])
    for projection in np.unique(types):
        members = (types == projection) & known
        if members.any():
            logs[members] -= logs[members].mean()
    return np.exp(np.where(known, logs, 0.0))
