"""What every step of a recipe reads and writes: a table of the commands in their order, each with the files that it is given.

Everything of a run of a recipe lies in one folder under the same names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Values = Mapping[str, str | Sequence[str]]
SPECTRA, SENSITIVITY, PLAN, RUN = "spectra.json", "sensitivity.json", "plan.json", "run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a recipe runs, and on what."""

    folder: Path
    model: str
    data: tuple[str, ...]
    tests: tuple[str, ...]
    steps: tuple[str, ...]
    """The recipe's steps."""
    whole: tuple[str, ...] = ()
    """Training files that `data` and `tests` are the parts of; empty where held-out files were named."""

    def at(self, name: str) -> str:
        """A file of the folder."""
        return str(self.folder / name)

    def written(self, step: str, name: str) -> tuple[str, ...]:
        """The file that a step writes, if the recipe has this step."""
        return (self.at(name),) if step in self.steps else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command: its arguments and the options that a recipe need not give."""

    arguments: Callable[[Place], tuple[str, ...]]
    options: Callable[[Place], Values]
    output: str = ""
    """What it writes; empty if its output has no name of its own."""
    reads: tuple[str, ...] = ()
    """Steps that have to come before."""


def _drawn(place: Place) -> tuple[str, ...]:
    """What figures and pages show."""
    return *place.written("analyze", SPECTRA), *place.written("allocate", PLAN), *place.written("train", RUN)


def _evidence(place: Place) -> Values:
    """The reports that a plan is made from; without any the model's own shapes."""
    found = {"spectra": place.written("analyze", SPECTRA), "sensitivity": place.written("probe", SENSITIVITY)}
    given = {name: values for name, values in found.items() if values}
    return given or {"model": place.model}


ORDER: Mapping[str, Step] = {
    "analyze": Step(arguments=lambda place: (place.model,), options=lambda place: {}, output=SPECTRA),
    "probe": Step(arguments=lambda place: (place.model,), options=lambda place: {"data": place.data}, output=SENSITIVITY),
    "allocate": Step(arguments=lambda place: (), options=_evidence, output=PLAN),
    "train": Step(
        arguments=lambda place: (place.at(PLAN),),
        options=lambda place: {"model": place.model, "data": place.data},
        output=RUN,
        reads=("allocate",),
    ),
    "evaluate": Step(
        arguments=lambda place: (place.at(RUN),),
        options=lambda place: {"data": place.tests},
        reads=("train",),
    ),
    "plot": Step(arguments=_drawn, options=lambda place: {}, output="plots", reads=("allocate",)),
    "report": Step(arguments=_drawn, options=lambda place: {}, output="report.html", reads=("allocate",)),
}
"""Commands that a recipe may have as steps, in the order in which they run."""


def line(step: str, options: Values, place: Place) -> tuple[str, ...]:
    """A step as a user would type it after `plan`.

    Args:
        step: a command.
        options: the recipe's; one that the step gives by itself is replaced.
        place: where it runs.
    """
    row = ORDER[step]
    written = [step, *row.arguments(place)]
    for name, value in {**row.options(place), **options}.items():
        if value == "true":  # a flag
            written.append(f"--{name}")
        elif value != "false":
            for one in [value] if isinstance(value, str) else value:
                written += [f"--{name}", one]
    return (*written, *(("-o", place.at(row.output)) if row.output else ()))
