"""SensitivityReport: what `plan probe` writes and `plan allocate` reads. Loads no torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from spectra import InputError
from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo

Statistic = Literal["squared-gradient", "magnitude", "taylor", "fisher"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


def field_of(statistic: Statistic) -> str:
    """The field of `SiteSensitivity` that holds a statistic."""
    return statistic.replace("-", "_")


COMPLETE = 0.05
"""Share of a trial run's loss reduction that may be missed where it is attributed to modules."""
Side = Annotated[int, Field(ge=1, lt=2**31)]


class Estimate(Value):
    """A mean over examples and its standard error; the error is NaN with a single example."""

    mean: Measured
    error: Measured


class Stability(Value):
    """How well two disjoint samples of one size agree on which sites matter, each compared within its projection type."""

    examples: int
    """Examples in each of the two samples."""
    rank_correlation: Measured
    """Spearman's rank correlation, 0 by chance."""
    overlap: Measured
    """Overlap of the two top halves, corrected for chance: 0 where sites are picked blindly, 1 where the halves are the same."""


class TrialRun(Value):
    """A short run of uniform LoRA, after which its loss reduction was attributed to the modules."""

    rank: int
    steps: int
    batch_size: int
    learning_rate: float
    examples: int
    """Held-out examples that the loss reduction was measured on."""
    loss_reduction: Estimate
    """Reduction of the mean loss per example by all adapters, in nats; its error is over batches."""
    gap: Measured = math.nan
    """What the modules' loss reductions missed of it as they were measured, as a share; the rest was then shared out."""
    points: int = 0
    """Points between no adapters and all of them at which slopes were taken; more where the loss falls steeply."""
    agreement: Measured = math.nan
    """Spearman's correlation between two halves of the held-out examples, modules compared within their projection type."""
    seconds: Measured = math.nan
    """What it took."""

    @property
    def complete(self) -> bool:
        """Whether the modules' loss reductions were found to within a twentieth of their sum, or it is no more than noise."""
        return not self.gap > COMPLETE or not self.loss_reduction.mean > 2 * self.loss_reduction.error


class Task(Value):
    """One sample of examples that gradients were taken on."""

    name: str
    examples: int
    stability: tuple[Stability, ...] = ()
    """For growing samples, as far as half the examples allow."""
    stable_from: int | None = None
    """Examples from which on the rank correlation stays at 0.95 or above; None if it never does."""
    trial_run: TrialRun | None = None
    """None if the task was probed without."""
    seconds: Measured = math.nan
    """What the gradients took."""


class ExpertUsage(Value):
    """How a routed expert was used by the tokens of one task, padding left out."""

    token_share: Measured
    """Share of the learned tokens, whose output a label is compared with, that chose the expert; all of a classifier's count. Over the experts of a layer it sums to the number chosen per token."""  # noqa: E501
    mean_weight: Measured
    """Mean routing weight of the expert over the learned tokens that chose it; NaN if none did."""
    all_share: Measured = math.nan
    """Share of all tokens, those of prompts included, that chose the expert."""


class SiteSensitivity(Value):
    """Gradient statistics of one linear module, one estimate per task in the report's order of tasks.

    With G the gradient of one example's loss by the weight W, each is a mean over examples, not divided by the matrix's size: the
    first over all, the others, which take longer, over every fourth.
    """

    name: str
    shape: tuple[Side, Side]
    """(d_out, d_in)."""
    squared_gradient: tuple[Estimate, ...]
    """sum G^2: the trace of the empirical Fisher matrix, LoRA-SMoE's signal."""
    magnitude: tuple[Estimate, ...]
    """sum |G W|."""
    taylor: tuple[Estimate, ...]
    """|sum G W|: the first-order change of the loss if the matrix vanished."""
    fisher: tuple[Estimate, ...]
    """sum (G W)^2: the empirical Fisher's second-order estimate of the same."""
    usage: tuple[ExpertUsage, ...] = ()
    """Per task, for the matrices of a routed expert; empty elsewhere."""
    loss_reduction: tuple[Estimate, ...] = ()
    """For every task with a trial run, its loss reduction in nats per example that is attributed to this module's adapter."""
    effective_rank: tuple[Measured, ...] = ()
    """Per task, the effective rank of the whitened mean gradient; empty where it was not measured."""

    def per_parameter(self, statistic: Statistic = "squared-gradient") -> tuple[Estimate, ...]:
        """A statistic over the number of weights, which makes matrices of unequal size comparable."""
        size = self.shape[0] * self.shape[1]
        return tuple(Estimate(mean=one.mean / size, error=one.error / size) for one in self.of(statistic))

    def of(self, statistic: Statistic) -> tuple[Estimate, ...]:
        """A statistic by its name."""
        found: tuple[Estimate, ...] = getattr(self, field_of(statistic))
        return found

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        counts = {statistic: len(self.of(statistic)) for statistic in STATISTICS}
        if len(set(counts.values())) > 1:
            raise ValueError(f"{self.name}: unequal numbers of tasks: {counts}")
        return self


class SensitivityReport(Document):
    """Sampled-gradient sensitivity of every linear module in the model's layers, in network order."""

    kind: Literal["sensitivity"] = "sensitivity"
    model: ModelInfo
    tasks: tuple[Task, ...]
    sites: Annotated[tuple[SiteSensitivity, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_value_per_task(self) -> Self:
        for site in self.sites:
            optional = {"uses": len(site.usage), "effective ranks": len(site.effective_rank)}
            counts = {"gradients": len(site.squared_gradient)} | {what: count for what, count in optional.items() if count}
            if wrong := [f"{count} {what}" for what, count in counts.items() if count != len(self.tasks)]:
                raise ValueError(f"{site.name}: {wrong[0]} for {len(self.tasks)} tasks")
            if len(site.loss_reduction) != len(tried := [task for task in self.tasks if task.trial_run]):
                raise ValueError(
                    f"{site.name}: {len(site.loss_reduction)} loss reductions for {len(tried)} tasks with a trial run"
                )
        return self

    def by_name(self) -> Mapping[str, SiteSensitivity]:
        """The sites, by name."""
        return {site.name: site for site in self.sites}

    def with_trial_run(self, trial_run: TrialRun, loss_reductions: Mapping[str, Estimate]) -> "SensitivityReport":
        """This report of one task, with what its trial run measured: one loss reduction for every site."""
        (task,) = self.tasks
        sites = tuple(site.model_copy(update={"loss_reduction": (loss_reductions[site.name],)}) for site in self.sites)
        return self.model_copy(update={"tasks": (task.model_copy(update={"trial_run": trial_run}),), "sites": sites})


def join(reports: Sequence[SensitivityReport]) -> SensitivityReport:
    """Merge reports on the same model, each with its tasks, into one.

    Raises:
        InputError: the reports describe different sites, or two of their tasks share a name.
    """
    first, *others = reports
    for other in others:
        if [(site.name, site.shape) for site in other.sites] != [(site.name, site.shape) for site in first.sites]:
            raise InputError(f"sensitivity of {other.tasks[0].name!r} and of {first.tasks[0].name!r} are of different models")
    tasks = tuple(task for report in reports for task in report.tasks)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InputError(f"task {max(names, key=names.count)!r} appears twice in the sensitivity reports")
    columns = zip(*(report.sites for report in reports), strict=True)
    return SensitivityReport(model=first.model, tasks=tasks, sites=tuple(map(_side_by_side, columns)))


def _side_by_side(same: Sequence[SiteSensitivity]) -> SiteSensitivity:
    fields = [field_of(statistic) for statistic in STATISTICS] + ["usage", "loss_reduction", "effective_rank"]
    joined = {field: tuple(value for site in same for value in getattr(site, field)) for field in fields}
    if not all(site.effective_rank for site in same):  # measured of all tasks or of none
        joined["effective_rank"] = ()
    return same[0].model_copy(update=joined)
