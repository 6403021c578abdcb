"""Notes for the reader of a plan: a table of conditions and sentences, the most important first.

A plan file holds every note that applies; a terminal prints the first two. What our study found is said with a link to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from planner.evidence.shrinkage import is_significant
from planner.plan import Note, PlannedSite
from planner.solver.problem import Problem

SPENT = 0.9  # share of the budget below which a plan says what is left
DEPTH_RULE = 0.9  # rank correlation of a layer's capacity with its depth
STUDY = "docs/experiments"
CAPACITY, SIZE = f"{STUDY}/where-capacity-goes.md", f"{STUDY}/how-small.md"


# No slots: cached properties keep their values in the instance's __dict__.
@dataclass(frozen=True, kw_only=True)
class Situation:
    """A plan that was just made, and the problem that it answers."""

    problem: Problem
    sites: Sequence[PlannedSite]

    @property
    def strategy(self) -> str:
        return str(self.problem.settings.strategy.name)

    @property
    def spent(self) -> float:
        """Share of the budget that is spent."""
        # A budget in experts is always shared out to the last one.
        parameters = sum(site.parameters for site in self.sites)
        return parameters / self.problem.limit.amount if self.problem.limit.unit == "parameters" else 1.0

    @property
    def mixtures(self) -> int:
        return sum(len(site.ranks) > 1 for site in self.sites)

    @property
    def routed(self) -> bool:
        """Whether the base model has routed experts."""
        return any(site.routed for site in self.sites)

    @property
    def uniform(self) -> bool:
        """Whether every site got the same."""
        return len({site.ranks for site in self.sites}) == 1

    @cached_property
    def below(self) -> list[bool]:
        """For every site whether it is in a layer that `depth` leaves out."""
        return self.problem.evidence.below(self.problem.settings.depth)

    @property
    def layers_below(self) -> int:
        sites = zip(self.problem.evidence.sites, self.below, strict=True)
        return len({site.layer for site, below in sites if below})

    @property
    def starved(self) -> int:
        """Sites without an adapter, those aside that `depth` leaves out."""
        return sum(not site.ranks and not below for site, below in zip(self.sites, self.below, strict=True))

    @property
    def scarce(self) -> bool:
        """Whether the plan has fewer parameters than rank 1 at every site that `depth` leaves in."""
        left = [site for site, below in zip(self.sites, self.below, strict=True) if not below]
        return sum(site.parameters for site in left) < sum(sum(site.shape) for site in left)

    @cached_property
    def trial_runs(self) -> list[bool]:
        """For every trial run whether its loss reduction exceeds its noise."""
        evidence = self.problem.evidence
        # Reports of some modules know nothing of the others.
        measured = replace(evidence, sites=tuple(site for site in evidence.sites if site.loss_reduction))
        return [is_significant(task) for task in measured.loss_reductions()]

    @cached_property
    def depth_correlation(self) -> float:
        """Spearman's, of a layer's parameters with its position; 0 with several stacks, with few layers or equal ones."""
        layers = self.problem.evidence.layers
        totals = [sum(self.sites[member].parameters for member in members) for members in layers.values()]
        if len({stack for stack, _ in layers}) > 1 or len(totals) < 4 or len(set(totals)) == 1:
            return 0.0
        from scipy.stats import spearmanr  # takes a moment to import

        return float(spearmanr(np.arange(len(totals)), totals).statistic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table."""

    about: str
    """A short name, for programs that read plans."""
    applies: Callable[[Situation], bool]
    says: Callable[[Situation], str]
    link: str = ""


def _learned(now: Situation) -> bool:
    """Whether the plan is more than the uniform one, on a dense model: what our study's comparisons are about."""
    return now.strategy != "uniform" and not now.uniform and not now.routed


def _follows_trial_run(now: Situation) -> bool:
    return now.strategy == "combined" and bool(now.trial_runs)


def _chosen(now: Situation) -> str:
    """What is known of plans that choose modules."""
    if not _follows_trial_run(now):
        return "On SmolLM2 no such plan made without a trial run beat random modules of its size."
    return (
        "On SmolLM2 such plans beat random modules by 0.017 +- 0.008 nats per token at a quarter of rank 1, and were level with"
        " them at a sixteenth."
    )


def _published(now: Situation) -> str | None:
    """The estimator whose alphas the strategy's authors take."""
    found: str | None = getattr(now.problem.settings.strategy.settings, "published_estimator", None)
    return found


def _estimator(now: Situation) -> str:
    used = now.problem.settings.estimator
    return f"by {used!r}" if used else "from a table, by an estimator that is not known"


RULES = (
    Rule(
        about="another estimator",
        applies=lambda now: _published(now) not in (None, now.problem.settings.estimator),
        says=lambda now: f"Alphas are {_estimator(now)}; the authors of {now.strategy!r} take those by {_published(now)!r}.",
    ),
    Rule(
        about="uniform after rounding",
        applies=lambda now: now.strategy != "uniform" and now.uniform,
        says=lambda now: "After rounding, this plan is the uniform one: the evidence changes nothing at this budget.",
    ),
    Rule(
        about="shapes unsure",
        applies=lambda now: now.problem.evidence.shapes_unsure,
        says=lambda now: "Shapes come from a table of alphas, which may not say which side is the input. Run `plan check`.",
    ),
    Rule(
        about="budget left",
        applies=lambda now: now.spent < SPENT,
        says=lambda now: (
            f"{1 - now.spent:.0%} of the budget is left: one more step does not fit, or a limit on ranks is reached."
            " `max_experts` 1 with `granularity` module gives the smallest steps."
        ),
    ),
    Rule(
        about="modules left out",
        applies=lambda now: _learned(now) and now.starved > 0 and not now.scarce,
        says=lambda now: (
            f"{now.starved} of {len(now.sites)} sites get nothing, though there is enough for rank 1 at each. In our study of a"
            " classifier such plans lost two points of accuracy to uniform LoRA on average."
        ),
        link=STUDY,
    ),
    Rule(
        about="modules chosen",
        applies=lambda now: _learned(now) and now.scarce and now.strategy != "random",
        says=lambda now: (
            f"{now.starved} of {len(now.sites)} sites get nothing: the budget is below rank 1 everywhere. {_chosen(now)}"
        ),
        link=CAPACITY,
    ),
    Rule(
        about="trial run within noise",
        applies=lambda now: now.strategy == "combined" and bool(now.trial_runs) and not any(now.trial_runs),
        says=lambda now: (
            "The trial run reduced the loss by no more than noise, so this plan follows spectra and gradients alone. More trial"
            " steps, or the learning rate that you will train with, may tell more."
        ),
    ),
    Rule(
        about="routed experts",
        applies=lambda now: now.routed,
        says=lambda now: (
            f"On mixture-of-experts models in our study, {'such plans' if now.strategy == 'combined' else 'plans of `combined`'}"
            " beat uniform LoRA at equal size. Run `plan compare` to check your task."
        ),
        link=STUDY,
    ),
    Rule(
        about="little to win on dense models",
        applies=lambda now: _learned(now) and not now.starved and _follows_trial_run(now),
        says=lambda now: (
            "On small dense models in our study, such plans were level with uniform LoRA at equal size, or a little ahead. On"
            " SmolLM2 the whole step from rank 1 to rank 8 is worth 0.014 nats per token. `plan compare` asks whether the budget"
            " binds on your task."
        ),
        link=SIZE,
    ),
    Rule(
        about="no trial run",
        applies=lambda now: _learned(now) and not now.starved and not _follows_trial_run(now),
        says=lambda now: (
            "Made without a trial run. On dense models in our study, no strategy without one beat uniform LoRA at equal size."
            " Run `plan compare` to check your task."
        ),
        link=STUDY,
    ),
    Rule(
        about="mixtures",
        applies=lambda now: now.mixtures > 0,
        says=lambda now: (
            f"{now.mixtures} of {len(now.sites)} sites are mixtures with routers. In our study one LoRA of the same size did as"
            " well on single tasks."
        ),
        link=STUDY,
    ),
    Rule(
        about="nearly a depth rule",
        applies=lambda now: now.strategy not in ("uniform", "mola") and abs(now.depth_correlation) >= DEPTH_RULE,
        says=lambda now: (
            f"After rounding, this plan is nearly a rule of depth: {'more' if now.depth_correlation > 0 else 'less'} with depth"
            f" (rank correlation {now.depth_correlation:+.2f})."
        ),
    ),
    Rule(
        about="lower layers left out",
        applies=lambda now: now.strategy != "uniform" and any(now.below),
        says=lambda now: (
            f"The lowest {now.layers_below} of {len(now.problem.evidence.layers)} layers get nothing and need no backward pass."
        ),
    ),
)  # fmt: skip


def notes(problem: Problem, sites: Sequence[PlannedSite]) -> tuple[Note, ...]:
    """Every note that applies to a plan, in the table's order."""
    now = Situation(problem=problem, sites=sites)
    return tuple(Note(about=rule.about, text=rule.says(now), link=rule.link) for rule in RULES if rule.applies(now))
