"""SensitivityReport: what `plan probe` writes and `plan allocate` reads. Loads no torch."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spectra import InputError
from spectra.report import ModelInfo
from spectra.values import Document, Measured, Value


class Task(Value):
    """One sample of examples that gradients were taken on."""

    name: str
    examples: int


class SiteSensitivity(Value):
    """Gradient statistics of one linear module, one number per task, in the report's order of tasks."""

    name: str
    shape: tuple[int, int]
    """(d_out, d_in)."""
    squared_gradient: tuple[Measured, ...]
    """Mean over examples of the squared Frobenius norm of the example's loss gradient; not divided by the matrix's size."""
    standard_error: tuple[Measured, ...]
    """Of that mean, from the spread between examples; NaN with a single example."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if len(self.squared_gradient) != len(self.standard_error):
            raise ValueError(
                f"{self.name}: {len(self.squared_gradient)} gradients but {len(self.standard_error)} standard errors"
            )
        return self

    @property
    def per_parameter(self) -> tuple[float, ...]:
        """Squared gradient over the number of weights, which makes matrices of unequal size comparable."""
        return tuple(value / (self.shape[0] * self.shape[1]) for value in self.squared_gradient)


class SensitivityReport(Document):
    """Sampled-gradient sensitivity of every linear module in the model's layers, in network order."""

    kind: Literal["sensitivity"] = "sensitivity"
    model: ModelInfo
    tasks: tuple[Task, ...]
    sites: Annotated[tuple[SiteSensitivity, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_value_per_task(self) -> Self:
        for site in self.sites:
            if len(site.squared_gradient) != len(self.tasks):
                raise ValueError(f"{site.name}: {len(site.squared_gradient)} gradients for {len(self.tasks)} tasks")
        return self

    def by_name(self) -> Mapping[str, SiteSensitivity]:
        """The sites, by name."""
        return {site.name: site for site in self.sites}


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
    sites = tuple(
        SiteSensitivity(
            name=same[0].name,
            shape=same[0].shape,
            squared_gradient=tuple(value for site in same for value in site.squared_gradient),
            standard_error=tuple(value for site in same for value in site.standard_error),
        )
        for same in columns
    )
    return SensitivityReport(model=first.model, tasks=tasks, sites=sites)
