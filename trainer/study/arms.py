"""What a study compares: the user's plans, each with settings of its own if wished, and the baselines of a reviewer."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import planner
from planner import AllocationSettings, Plan, require_match
from planner.solver.options import MOST_EXPERTS
from spectra import Checkpoint, InputError
from spectra.core.methods import Chosen
from trainer.settings import Task, TrainSettings
from trainer.study.report import BASELINE

TOLERANCE = 0.005
"""Share by which plans may differ in size; or one rank of the widest module, if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An arm before its runs: a plan, and what its runs have that the study's others have not."""

    name: str
    plan: Plan
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings -> values, checked."""
    drawn: Callable[[int], Plan] | None = None
    """Seed -> plan, where every seed has a draw of its own; `plan` then serves the search for a learning rate."""
    own: bool = True
    """Whether the user gave it; baselines are not compared with one another."""

    def plan_of(self, seed: int | None) -> Plan:
        """The plan of a seed's run, or of the runs that choose a learning rate."""
        return self.plan if self.drawn is None or seed is None else self.drawn(seed)

    def settings(self, common: TrainSettings) -> TrainSettings:
        """The study's settings with this arm's changes."""
        return common.model_copy(update=dict(self.changes))


def candidates_of(
    paths: Sequence[str | Path],
    checkpoint: Checkpoint,
    task: Task,
    settings: TrainSettings,
    *,
    baselines: bool,
    arms: Sequence[str] = (),
) -> list[Candidate]:
    """The arms of a study, after a check that they are of one size: the user's first, then the baselines.

    Args:
        paths: plan files, each an arm under the file's name.
        checkpoint: the base model.
        task: of the training data.
        settings: the study's.
        baselines: whether to add uniform LoRA and the others.
        arms: more arms, as NAME=PLAN,SETTING=VALUE,...

    Raises:
        InputError: plans of unequal size or for another model, names that clash, or a setting that there is not.
    """
    given = [Candidate(name=Path(path).stem, plan=Plan.load(path)) for path in paths]
    given += [_arm(text, settings) for text in arms]
    if len({candidate.name for candidate in given}) < len(given):
        raise InputError("two plan files share a name; rename one")
    if not given:
        raise InputError("no plans: there is nothing to compare")
    for candidate in given:
        require_match(candidate.plan, checkpoint)
    sizes = {candidate.name: candidate.plan.parameters for candidate in given}
    largest = max(sizes.values())
    widest = max(sum(site.shape) for candidate in given for site in candidate.plan.sites)
    if min(sizes.values()) < largest - max(TOLERANCE * largest, widest):
        shown = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        raise InputError(f"plans differ in size by more than {TOLERANCE:.1%}: {shown}; make them with one budget")
    found = baselines_of(largest, checkpoint, task) if baselines else []
    if BASELINE not in {candidate.name for candidate in (*given, *found)}:
        raise InputError(f"without baselines one of the plans must be called {BASELINE}.json: everything is compared with it")
    if len(given) + len(found) < 2:
        raise InputError("one plan and no baselines: there is nothing to compare")
    if clash := {candidate.name for candidate in given} & {candidate.name for candidate in found}:
        raise InputError(f"plan {min(clash)!r} has the name of a baseline; rename the file")
    return [*given, *found]


def _arm(text: str, settings: TrainSettings) -> Candidate:
    """Read NAME=PLAN,SETTING=VALUE,..."""
    name, equals, rest = text.partition("=")
    path, *pairs = rest.split(",")
    if not (name.strip() and equals and path.strip()):
        raise InputError(f"`arm` {text!r}: not of the form NAME=PLAN,SETTING=VALUE, such as sira=mixture.json,router=sira")
    given: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise InputError(f"`arm` {text!r}: {pair!r} is no SETTING=VALUE")
        given[key.strip().replace("-", "_")] = _value(value.strip())
    return Candidate(name=name.strip(), plan=Plan.load(path.strip()), changes=changes_of(given, settings, f"`arm` {text!r}"))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


FIXED = ("seed", "learning_rate", "evaluations", "patience", "shard")
"""Settings that are the study's own: a seed is a run's number, and a learning rate is chosen for each arm."""


def changes_of(given: Mapping[str, Any], settings: TrainSettings, source: str) -> dict[str, Any]:
    """Settings of one arm, checked together with the study's; a router's own settings stand beside the others.

    Raises:
        InputError: a setting that there is not, or a value that it does not take.
    """
    values, nested = dict(settings.model_dump()), dict(given)
    fields = TrainSettings.model_fields
    changed = [name for name in nested if name in fields]
    if odd := next((name for name in changed if name in FIXED), None):
        raise InputError(f"{source}: `{odd}` is the study's own; leave it out")
    values |= {name: nested.pop(name) for name in changed}
    for name, value in list(nested.items()):
        for setting in [one for one in fields if isinstance(getattr(settings, one), Chosen)]:
            made = TrainSettings.checked(values, source)
            if name in type(getattr(made, setting).settings).model_fields:
                chosen = values[setting] if isinstance(values[setting], dict) else {"name": values[setting], "settings": {}}
                values[setting] = chosen | {"settings": {**(chosen.get("settings") or {}), name: value}}
                changed.append(setting)
                break
        else:
            raise InputError(f"{source}: there is no setting {name!r}; see `plan train`'s help")
    checked = TrainSettings.checked(values, source)
    return {name: getattr(checked, name) for name in dict.fromkeys(changed)}


def baselines_of(size: int, checkpoint: Checkpoint, task: Task) -> list[Candidate]:
    """Uniform LoRA, a uniform mixture, a random plan for every seed and, for a classifier, the head alone.

    They are planned by module: as even as whole ranks allow, and as large as the plans; equal ranks everywhere could be much
    smaller. Where not every module can have a rank, whole projection types go without, so that a baseline stays even over the
    layers.

    Raises:
        InputError: too small a size for even one projection type.
    """
    even = _even(size, checkpoint)
    lora = uniform_of(size, checkpoint)

    def random(seed: int) -> Plan:
        drawn = {"name": "random", "settings": {"seed": seed}}
        return _made(size, checkpoint, strategy=drawn, max_experts=1, **even | {"granularity": "module"})

    mixture = _made(size, checkpoint, strategy="uniform", max_experts=MOST_EXPERTS, **even)
    found = [
        Candidate(name=BASELINE, plan=lora, own=False),
        Candidate(name="uniform-mixture", plan=mixture, own=False),
        Candidate(name="random", plan=random(2**31), drawn=random, own=False),
    ]
    if task == "classification":
        found.append(Candidate(name="head-only", plan=lora.without_adapters(), own=False))
    return found


def uniform_of(size: int, checkpoint: Checkpoint) -> Plan:
    """Plain LoRA of a size, as even as whole ranks allow.

    Raises:
        InputError: too small a size for even one projection type.
    """
    try:
        return _made(size, checkpoint, strategy="uniform", **_even(size, checkpoint))
    except InputError as error:
        raise InputError(
            f"plans of {size:,} parameters are smaller than rank 1 at any one projection type, so no baseline is even over the"
            f" layers; leave `baselines` out and give a {BASELINE}.json of your own"
        ) from error


def _even(size: int, checkpoint: Checkpoint) -> dict[str, Any]:
    least = planner.allocate("rank 1", AllocationSettings(strategy="uniform"), model=checkpoint).parameters
    # Below rank 1 everywhere, whole projection types go without; `random` alone still chooses module by module.
    return {"granularity": "module"} if size >= least else {"granularity": "projection", "min_rank": 0}


def _made(size: int, checkpoint: Checkpoint, **settings: object) -> Plan:
    return planner.allocate(str(size), AllocationSettings.model_validate(settings), model=checkpoint)
