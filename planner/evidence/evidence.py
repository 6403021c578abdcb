"""Evidence: what is known about every site that could be adapted, joined by name from the reports.

It also decides what failed or noisy measurements mean: a failed fit counts as its projection type's mean, so that it neither
attracts nor repels capacity, and a noisy one is moved towards that mean by how noisy it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, TypeVar

import numpy as np

from planner.evidence.shrinkage import TRUST, Floats, shrunk, updated
from planner.sensitivity.report import Estimate, SensitivityReport, SiteSensitivity, Statistic
from spectra import Checkpoint, InputError, SpectraReport
from spectra.checkpoint.chosen import chosen_modules
from spectra.checkpoint.names import expert_index, is_adaptable, parse_name, projection_type, resolve, sort_key
from spectra.report import ModelInfo, SiteSpectrum

T = TypeVar("T")
Shape = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvidence:
    """One adaptable site. Estimates have NaN for their mean, and tuples are empty, where nothing was measured."""

    name: str
    shape: tuple[int, int]
    layer: tuple[str, int]
    projection: str
    """Its type: without layer and routed expert."""
    expert: int | None
    """The routed expert of the base model that it belongs to."""
    alpha: Estimate
    sensitivity: tuple[Estimate, ...]
    """The chosen statistic per parameter, one estimate per task."""
    token_share: float = math.nan
    """Share of the learned tokens that reach the routed expert, averaged over tasks."""
    all_share: float = math.nan
    """Share of all tokens, those of prompts included."""
    loss_reduction: tuple[Estimate, ...] = ()
    """Loss reduction of the site's adapter in each task's trial run, in nats per example."""
    effective_rank: tuple[float, ...] = ()
    """Effective rank of each task's whitened gradient."""

    @property
    def rank_cost(self) -> int:
        """Trainable parameters of one more rank."""
        return sum(self.shape)

    def share_of(self, tokens: Literal["learned", "all"]) -> float:
        """Share of the tokens that reach the site: those that reach its routed expert, or 1."""
        if self.expert is None:
            return 1.0
        return self.token_share if tokens == "learned" else self.all_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All adaptable sites of one model, in network order."""

    model: ModelInfo
    sites: tuple[SiteEvidence, ...]
    shapes_unsure: bool = False
    """Whether shapes come from a table of alphas, which may not say which side of a matrix is the input."""
    incomplete: Mapping[str, float] = field(default_factory=dict)
    """Task -> share of its trial run's loss reduction that was missed where it was attributed, for those that miss too much."""

    @property
    def layers(self) -> Mapping[tuple[str, int], list[int]]:
        """Layer -> positions of its sites."""
        groups: dict[tuple[str, int], list[int]] = {}
        for position, site in enumerate(self.sites):
            groups.setdefault(site.layer, []).append(position)
        return groups

    @property
    def types(self) -> list[str]:
        """Projection type of every site."""
        return [site.projection for site in self.sites]

    def below(self, depth: float) -> list[bool]:
        """For every site whether it is in a layer under the upper share `depth` of its stack, which holds at least one layer."""
        count = {stack: 1 + max(layer for other, layer in self.layers if other == stack) for stack, _ in self.layers}
        first = {stack: layers - max(1, math.ceil(depth * layers - ROUNDING)) for stack, layers in count.items()}
        return [site.layer[1] < first[site.layer[0]] for site in self.sites]

    def layer_alphas(self) -> list[float]:
        """For every site the plain mean of its layer's alphas, failed fits left out; a layer without any gets the mean of all."""
        alphas = np.array([site.alpha.mean for site in self.sites])
        means = np.full(alphas.size, float(np.nanmean(alphas)))
        for members in self.layers.values():
            if np.isfinite(alphas[members]).any():
                means[members] = np.nanmean(alphas[members])
        return [float(mean) for mean in means]

    def sensitivities(self) -> Floats:
        """(sites, tasks): the chosen statistic per parameter."""
        return np.array([[estimate.mean for estimate in site.sensitivity] for site in self.sites])

    def relative_alpha(self) -> Floats:
        """(sites,): alpha within its projection type, geometric mean 1, shrunk by its standard error."""
        return shrunk(self.types, [site.alpha for site in self.sites])

    def relative_sensitivity(self) -> Floats:
        """(sites,): sensitivity within its projection type, shrunk by its standard error; geometric mean over tasks."""
        tasks = zip(*(site.sensitivity for site in self.sites), strict=True)
        mean: Floats = np.exp(np.mean([np.log(shrunk(self.types, task)) for task in tasks], axis=0))
        return mean

    def relative_effective_rank(self) -> Floats:
        """(sites,): effective rank over the mean of its projection type, averaged over tasks.

        Raises:
            InputError: a site without.
        """
        if unknown := next((site for site in self.sites if not site.effective_rank), None):
            raise InputError(
                f"site {unknown.name!r}: its gradient's effective rank was not measured; plan probe measures it with"
                " `effective_rank`, of linear modules, not of routed experts"
            )
        # A gradient of zeros has no direction, and NaN for its rank: it asks for nothing.
        tasks = np.nan_to_num(np.array([site.effective_rank for site in self.sites]))
        types = np.array(self.types)
        for projection in np.unique(types):
            members = types == projection
            tasks[members] /= np.maximum(tasks[members].mean(axis=0), np.finfo(float).tiny)
        found: Floats = tasks.mean(axis=1)
        return found

    def token_shares(self) -> Floats:
        """(sites,): the share of the tasks' tokens that pass a site, 1 but for routed experts; never quite zero."""
        shares = np.array([site.share_of("learned") for site in self.sites])
        if np.isnan(shares).any():
            name = self.sites[int(np.isnan(shares).argmax())].name
            raise InputError(f"site {name!r}: the sensitivity report does not say how many tokens reach it; see plan probe")
        found: Floats = np.maximum(shares, LEAST_SHARE)
        return found

    def loss_reductions(self) -> list[Floats]:
        """For every task with a trial run (sites, 2): loss reduction per parameter of an adapter, and its standard error."""
        cost = np.array([site.rank_cost for site in self.sites], dtype=np.float64)
        tasks = zip(*(site.loss_reduction for site in self.sites), strict=True)
        return [np.array([(one.mean, one.error) for one in task]) / cost[:, None] for task in tasks]

    def weights(self, prior: Floats, trust: float = TRUST) -> Floats:
        """(sites,): loss reduction per parameter as trial runs measured it, mean 1, averaged over tasks; else the prior.

        Args:
            prior: (sites,), positive: what to believe of a site whose measurement is all noise.
            trust: how much of a trial run, noise apart, is believed to hold for a long run; from 0 to 1.
        """
        tasks = [updated(prior, task, trust) for task in self.loss_reductions()]
        mean: Floats = np.mean(tasks, axis=0) if tasks else prior / prior.mean()
        return mean

    def require(self, what: str, strategy: str) -> None:
        """Raise an InputError if a strategy lacks the evidence it lives on; `what` is `spectra` or `sensitivity`."""
        missing = {
            "spectra": all(math.isnan(site.alpha.mean) for site in self.sites),
            "sensitivity": not self.sites[0].sensitivity,
        }
        if missing[what]:
            raise InputError(f"strategy {strategy!r} needs `{what}` with measured values: make it with plan {MAKERS[what]}")
        if what == "sensitivity" and not (self.sensitivities() > 0).any():
            raise InputError(f"strategy {strategy!r}: every gradient in the sensitivity report is zero")


LEAST_SHARE = 1e-6  # a weight of 0 would take the site out of the problem, minimum rank or not
ROUNDING = 1e-9  # a third of six layers is two
UNKNOWN = Estimate(mean=math.nan, error=math.nan)
MAKERS = {"spectra": "analyze", "sensitivity": "probe"}


def gather(
    spectra: SpectraReport | None = None,
    sensitivity: SensitivityReport | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    estimator: str | None = None,
    statistic: Statistic = "squared-gradient",
    modules: str | None = None,
) -> Evidence:
    """Join what is known.

    Sites, names and shapes come from the checkpoint if given, else from a report made from one, else from a table of alphas.

    Args:
        spectra: alphas.
        sensitivity: gradients and routing.
        checkpoint: the opened model.
        estimator: name of the one whose alphas count; by default the report's own.
        statistic: which gradient statistic.
        modules: the ones that are asked for; a report may know nothing of the others.

    Raises:
        InputError: nothing given, no adaptable site, reports of different models, a site that only one side knows, or an
            estimator that the report does not have.
    """
    _require_one_model(spectra, sensitivity, checkpoint)
    model, shapes = _inventory(spectra, sensitivity, checkpoint)
    alphas = _joined(shapes, _alphas(spectra, estimator), "spectra", modules) if spectra else {}
    gradients = _joined(shapes, _gradients(sensitivity), "sensitivity", modules) if sensitivity else {}
    names = sorted(shapes, key=sort_key)
    sites = tuple(_site(name, shapes[name], alphas.get(name, UNKNOWN), gradients.get(name), statistic) for name in names)
    # Of what is not square a table may confuse the sides.
    from_table = spectra is not None and model is spectra.model and model.fingerprint is None
    unsure = from_table and any(site.shape[0] != site.shape[1] for site in sites)
    tried = [task for task in sensitivity.tasks if task.trial_run] if sensitivity else []
    incomplete = {task.name: task.trial_run.gap for task in tried if task.trial_run and not task.trial_run.complete}
    return Evidence(model=model, sites=sites, shapes_unsure=unsure, incomplete=incomplete)


def _site(name: str, shape: Shape, alpha: Estimate, gradients: SiteSensitivity | None, statistic: Statistic) -> SiteEvidence:
    where = parse_name(name)
    assert where is not None  # the inventory holds adaptable names only
    used = gradients.usage if gradients else ()
    return SiteEvidence(
        name=name,
        shape=shape,
        layer=(where.stack, where.layer),
        projection=projection_type(name),
        expert=expert_index(name),
        alpha=alpha,
        sensitivity=gradients.per_parameter(statistic) if gradients else (),
        token_share=_plain_mean([task.token_share for task in used]),
        all_share=_plain_mean([task.all_share for task in used]),
        loss_reduction=gradients.loss_reduction if gradients else (),
        effective_rank=gradients.effective_rank if gradients else (),
    )


def _asked(names: Mapping[str, object], modules: str | None) -> set[str]:
    """The names that are asked for; all where nobody says which."""
    return set(names) if modules is None else set(compress(names, chosen_modules(list(names), modules)))


def _plain_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _require_one_model(
    spectra: SpectraReport | None, sensitivity: SensitivityReport | None, checkpoint: Checkpoint | None
) -> None:
    prints = {
        "spectra": spectra.model.fingerprint if spectra else None,
        "sensitivity": sensitivity.model.fingerprint if sensitivity else None,
        "model": checkpoint.fingerprint if checkpoint else None,
    }
    # A table has no fingerprint: it is held against the others by names and shapes alone.
    known = [(source, fingerprint) for source, fingerprint in prints.items() if fingerprint]
    for source, fingerprint in known[1:]:
        if fingerprint != known[0][1]:
            raise InputError(f"`{known[0][0]}` and `{source}` are of different models: {known[0][1]} and {fingerprint}")


def _inventory(
    spectra: SpectraReport | None, sensitivity: SensitivityReport | None, checkpoint: Checkpoint | None
) -> tuple[ModelInfo, dict[str, Shape]]:
    if checkpoint is not None:
        model, matrices = ModelInfo.of(checkpoint), dict(checkpoint.modules())
    # A table may confuse a matrix's sides, so the shapes of a sensitivity report are preferred to its own.
    elif spectra is not None and (spectra.model.fingerprint or sensitivity is None):
        model, matrices = spectra.model, {name: shape for name, (shape, _) in _alphas(spectra, None).items()}
    elif sensitivity is not None:
        model, matrices = sensitivity.model, {site.name: site.shape for site in sensitivity.sites}
    else:
        raise InputError("nothing to allocate from: give `spectra`, `sensitivity` or `model`")
    shapes = {name: shape for name, shape in matrices.items() if is_adaptable(name)}
    if not shapes:
        raise InputError(f"{model.name}: no linear module inside a numbered layer")
    return model, shapes


def _alphas(spectra: SpectraReport, estimator: str | None) -> dict[str, tuple[Shape, Estimate]]:
    """Module -> shape and alpha. The parts of a fused module, which an adapter cannot tell apart, count by their mean."""
    parts: dict[str, list[SiteSpectrum]] = {}
    for site in spectra.sites:
        if is_adaptable(site.module):
            parts.setdefault(site.module, []).append(site)
    return {module: (_joint_shape(sites), _mean([_alpha(site, estimator) for site in sites])) for module, sites in parts.items()}


def _alpha(site: SiteSpectrum, estimator: str | None) -> Estimate:
    """Alpha and its standard error: by resampling the matrix where that was done, else by the fit's own formula."""
    fit = site if estimator is None else site.fits.get(estimator)
    if fit is None:
        known = ", ".join(site.fits) or "only the table's"
        raise InputError(f"`estimator` {estimator!r}: site {site.name!r} has no such fit, it has {known}; see plan analyze")
    # Matrices were resampled for the report's own estimator, which says nothing of another one's error. The variation is
    # relative.
    resampled = site.uncertainty.subsample_variation if fit is site else math.nan
    return Estimate(mean=fit.alpha, error=fit.alpha * resampled if math.isfinite(resampled) else fit.sigma)


def _joint_shape(parts: Sequence[SiteSpectrum]) -> Shape:
    return sum(part.shape[0] for part in parts), parts[0].shape[1]


def _mean(parts: Sequence[Estimate]) -> Estimate:
    known = [part for part in parts if math.isfinite(part.mean)]
    if not known:
        return UNKNOWN
    error = math.sqrt(sum(part.error**2 for part in known)) / len(known)  # as if independent
    return Estimate(mean=sum(part.mean for part in known) / len(known), error=error)


def _gradients(sensitivity: SensitivityReport) -> dict[str, tuple[Shape, SiteSensitivity]]:
    return {site.name: (site.shape, site) for site in sensitivity.sites}


def _joined(shapes: Mapping[str, Shape], known: Mapping[str, tuple[Shape, T]], report: str, modules: str | None) -> dict[str, T]:
    """The report's value for every site; both sides must know the same modules with the same shapes, if they are asked for."""
    asked, theirs = _asked(shapes, modules), _asked(known, modules)
    found = resolve(known, list(shapes))
    if unknown := [name for name in known if name not in found and name in theirs]:
        raise InputError(
            f"site {unknown[0]!r} of the {report} report is no module of the model, or the other report was made with `modules`"
        )
    by_site = {found[name]: value for name, value in known.items() if name in found}
    for name, shape in shapes.items():
        if name not in by_site:
            if name not in asked:
                continue
            raise InputError(f"site {name!r} is missing from the {report} report; was it made with other `modules`?")
        # Unordered: weightwatcher's table does not say which side is the input.
        if sorted(by_site[name][0]) != sorted(shape):
            raise InputError(
                f"site {name!r} has shape {list(by_site[name][0])} in the {report} report, but {list(shape)} in the model"
            )
    return {name: value for name, (_, value) in by_site.items()}
