"""A recipe: the commands of a whole run, from analysis to evaluation, with every option that a paper or its release fixes.

A recipe is a YAML file. Its steps are commands of `plan` with their options by name; what one command passes to the next, and
where files go, is not written down, because it is always the same (`steps.py`). A section `small` holds what makes the recipe
end in minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from spectra import InputError
from spectra.core.documents import Value
from spectra.core.yaml_texts import read_yaml
from trainer.recipes.steps import ORDER

LIBRARY = Path(__file__).parent / "library"
Options = Mapping[str, str | tuple[str, ...]]
"""Option without its dashes -> its value as on the command line; several values for an option that may be repeated."""


class Recipe(Value):
    """Steps and their options."""

    title: str
    """One line that says what the recipe is."""
    needs: Literal["experts"] | None = None
    """`experts`: the model has to have routed experts of its own."""
    steps: dict[str, dict[str, str | tuple[str, ...]]]
    """Command -> its options, in the order in which they run."""
    small: Annotated[dict[str, dict[str, str | tuple[str, ...]]], Field(default_factory=dict)]
    """Command -> the options that differ in a run of minutes."""

    @classmethod
    def load(cls, name: str) -> "Recipe":
        """Read a recipe of the library by its name, or any by its file.

        Raises:
            InputError: no such recipe, or a file that is none, with the first fault.
        """
        path = LIBRARY / f"{name}.yaml" if name in shipped() else Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise InputError(f"recipe {name!r}: not one of {', '.join(shipped())}, and no .yaml file")
        given = read_yaml(path)
        for part in ("steps", "small"):  # a step without options is an empty text in YAML
            if isinstance(steps := given.get(part), dict):
                given[part] = {step: {} if options == "" else options for step, options in steps.items()}
        recipe = cls.checked(given, path)
        _require_order(recipe, path)
        return recipe

    def with_small(self) -> "Recipe":
        """The recipe as its section `small` changes it."""
        return self.with_options(self.small)

    def with_options(self, changes: Mapping[str, Options]) -> "Recipe":
        """The recipe with other options at some of its steps; an empty value takes an option away."""
        steps = {}
        for step, options in self.steps.items():
            changed = {**options, **changes.get(step, {})}
            steps[step] = {name: value for name, value in changed.items() if value != ""}
        return self.model_copy(update={"steps": steps})


def shipped() -> list[str]:
    """Names of the recipes that come with loraplan."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def _require_order(recipe: Recipe, path: Path) -> None:
    """Refuse steps that are unknown, out of order, or lack what they read.

    Raises:
        InputError: the step.
    """
    if not recipe.steps:
        raise InputError(f"{path}: steps: there are none; a recipe has some of {', '.join(ORDER)}")
    for part, steps in (("steps", recipe.steps), ("small", recipe.small)):
        if odd := next((step for step in steps if step not in ORDER), None):
            raise InputError(f"{path}: {part}: {odd!r} is not one of {', '.join(ORDER)}")
    if odd := next((step for step in recipe.small if step not in recipe.steps), None):
        raise InputError(f"{path}: small: {odd!r} is no step of this recipe")
    found = list(recipe.steps)
    if found != (right := sorted(found, key=list(ORDER).index)):
        raise InputError(f"{path}: steps: {', '.join(found)} are out of order; write {', '.join(right)}")
    for step in found:
        if lacking := next((other for other in ORDER[step].reads if other not in found), None):
            raise InputError(f"{path}: steps: {step} reads what {lacking} writes, and there is no step {lacking}")


def parse_changes(recipe: Recipe, texts: Sequence[str], offers: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Read changes of options as they are given on the command line.

    Args:
        recipe: whose steps they are for.
        texts: each `STEP.OPTION=VALUE`, or `OPTION=VALUE` where only one step of the recipe has the option.
        offers: step -> the options that its command has.

    Returns:
        Step -> option -> value.

    Raises:
        InputError: not of this form, or no step or several steps have the option.
    """
    changes: dict[str, dict[str, str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        step, dot, option = key.strip().rpartition(".")
        option = option.replace("_", "-")
        if not equals or not option:
            raise InputError(f"change {text!r}: write STEP.OPTION=VALUE, such as train.epochs=1")
        if dot and step not in recipe.steps:
            raise InputError(f"change {text!r}: {step!r} is no step of this recipe; it has {', '.join(recipe.steps)}")
        able = [step] if dot else [one for one in recipe.steps if option in offers[one]]
        if len(able) > 1:
            raise InputError(f"change {text!r}: {' and '.join(able)} have this option; write {able[-1]}.{text}")
        if not able:
            raise InputError(f"change {text!r}: no step of this recipe has an option {option!r}")
        changes.setdefault(able[0], {})[option] = value.strip()
    return changes
