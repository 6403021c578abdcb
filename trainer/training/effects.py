"""Settings that would change nothing in a run: a table of conditions. A run is refused with them, a study leaves them out."""

from collections.abc import Callable
from dataclasses import dataclass

from planner import Plan
from spectra import InputError
from trainer.settings import GrowthSettings, Task, TrainSettings

GROWTH = tuple(name for name in GrowthSettings.model_fields if name != "grow")
USUAL = TrainSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """A run that is about to begin."""

    plan: Plan
    settings: TrainSettings
    task: Task | None = None
    """None where it is not known."""
    evaluates: bool = False
    """Whether a file is scored during the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Settings, and when they change nothing."""

    settings: tuple[str, ...]
    idle: Callable[[Situation], bool]
    why: str


RULES = (
    Rule(
        settings=("router", "balance_loss", "z_loss"),
        idle=lambda run: all(len(site.ranks) < 2 for site in run.plan.sites),
        why="on a plan without routers: no module has several LoRA experts",
    ),
    Rule(
        settings=("balance_loss",),
        idle=lambda run: run.settings.router.name == "dense" or (run.settings.router.name != "sira" and _all_picked(run.plan)),
        why="where every token uses every expert: the balance is even whatever the router does",
    ),
    Rule(
        settings=("dropout", "init", "alpha", "lr_ratio"),
        idle=lambda run: run.plan.parameters == 0,
        why="on a plan that adapts nothing",
    ),
    Rule(
        settings=("train_router",),
        idle=lambda run: not any(site.routed and site.ranks for site in run.plan.sites),
        why="on a plan that adapts no routed experts: no router of the base chooses among its adapters",
    ),
    Rule(
        settings=("growth_tokens",),
        idle=lambda run: run.task == "classification",
        why="on a classifier, whose label is no token's",
    ),
    Rule(settings=GROWTH, idle=lambda run: not run.settings.grow, why="without `grow`"),
    Rule(
        settings=("growth_events",),
        idle=lambda run: run.settings.growth_every > 0,
        why="with `growth_every`: the distance of events gives their number",
    ),
    Rule(settings=("epochs",), idle=lambda run: run.settings.max_steps > 0, why="with `max_steps`"),
    Rule(settings=("evaluations",), idle=lambda run: not run.evaluates, why="without an evaluation file"),
    Rule(
        settings=("group_by_length",),
        idle=lambda run: run.settings.packing,
        why="with `packing`: every row is as long as the longest",
    ),
    Rule(settings=("loss_on",), idle=lambda run: run.task == "classification", why="on a classifier, whose loss counts labels"),
    Rule(
        settings=("turns", "chat_template", "template_option", "template_date", "role_map", "join"),
        idle=lambda run: run.task == "classification",
        why="on a classifier, whose texts are no conversations",
    ),
)


def _all_picked(plan: Plan) -> bool:
    """Whether no router has anything to choose."""
    return all(site.top_k == len(site.ranks) for site in plan.sites if len(site.ranks) > 1)


def without_effect(run: Situation) -> dict[str, str]:
    """Settings with another value than their default that would change nothing -> why."""
    found: dict[str, str] = {}
    for rule in RULES:
        if rule.idle(run):
            changed = [name for name in rule.settings if not _is_default(run.settings, name)]
            found |= {name: rule.why for name in changed if name not in found}
    return found


def require_effect(run: Situation) -> None:
    """Refuse a setting that would change nothing.

    Raises:
        InputError: naming the first.
    """
    for name, why in without_effect(run).items():
        raise InputError(f"`{name}` has no effect {why}; leave it out")


def in_effect(run: Situation) -> TrainSettings:
    """The settings, with those at their defaults that would change nothing."""
    return run.settings.model_copy(update={name: getattr(USUAL, name) for name in without_effect(run)})


def _is_default(settings: TrainSettings, name: str) -> bool:
    return bool(getattr(settings, name) == getattr(USUAL, name))
