"""The plans that the studies on SmolLM2 compare, by name: `arm(name, size, task)` -> rank of every adapted module.

Sizes are in parts of rank 1 everywhere, 305,280 parameters. Below 1 a plan chooses modules; random draws differ by seed.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import planner
from planner import AllocationSettings, SensitivityReport
from planner.evidence.evidence import Evidence
from planner.sensitivity.report import Estimate
from planner.strategies import STRATEGIES
from planner.strategies.combined import CombinedSettings, combined
from planner.strategies.demand import Demand
from spectra import SpectraReport, open_checkpoint
from spectra.core.methods import Method

TASKS = (
    "strategyqa",
    "hyperbaton",
    "subtask046_miscellaenous_question_typing",
    "social_iqa",
    "vitaminc_fact_verification",
    "subtask038_qasc_combined_fact",
)
MORE_TASKS = (
    "fact_checker-fever",
    "elementary_math_qa-question_only",
    "winowhy",
    "subtask033_winogrande_answer_generation",
)
RANK_1 = 305_280


def _constant(evidence: Evidence, **fields: object) -> Evidence:
    return replace(evidence, sites=tuple(replace(site, **fields) for site in evidence.sites))  # type: ignore[arg-type]


def _inverted(evidence: Evidence, settings: CombinedSettings) -> Demand:
    """`combined` upside down: a control that has to lose if the evidence carries anything."""
    demand = combined(evidence, settings)
    return replace(demand, weights=tuple(1 / weight for weight in demand.weights))


def _without_alphas(evidence: Evidence, settings: CombinedSettings) -> Demand:
    return combined(_constant(evidence, alpha=Estimate(mean=3.0, error=0.1)), settings)


def _without_gradients(evidence: Evidence, settings: CombinedSettings) -> Demand:
    tasks = len(evidence.sites[0].sensitivity)
    return combined(_constant(evidence, sensitivity=(Estimate(mean=1.0, error=0.01),) * tasks), settings)


def _without_trial(evidence: Evidence, settings: CombinedSettings) -> Demand:
    return combined(_constant(evidence, loss_reduction=()), settings)


STRATEGIES |= {
    "inverted": Method(_inverted, CombinedSettings),
    "without-alphas": Method(_without_alphas, CombinedSettings),
    "without-gradients": Method(_without_gradients, CombinedSettings),
    "without-trial": Method(_without_trial, CombinedSettings),
}


class Arms:
    """Makes plans of one model from a folder of reports: `spectra.json` and a `TASK.json` for each task."""

    def __init__(self, model: Path, reports: Path) -> None:
        """Open the model; reports are read when a plan needs them."""
        self.checkpoint, self.reports = open_checkpoint(model), reports

    @lru_cache  # noqa: B019 - lives as long as the program
    def _sensitivity(self, task: str) -> SensitivityReport:
        return SensitivityReport.load(self.reports / f"{task}.json")

    @lru_cache  # noqa: B019
    def _spectra(self) -> SpectraReport:
        return SpectraReport.load(self.reports / "spectra.json")

    def arm(self, name: str, size: float, task: str = "", seed: int = 0) -> dict[str, int]:
        """Rank of every adapted module of a plan.

        Args:
            name: a strategy, or `even` (whole projection types go without), `upper` (the upper layers alone), `values-outputs`.
            size: in parts of rank 1 everywhere.
            task: whose evidence to use.
            seed: of a random draw.
        """
        budget, given, settings = str(round(size * RANK_1)), {}, {"max_experts": 1}
        if size < 1:
            settings |= {"min_rank": 0, "granularity": "module"}
        if name == "even":
            settings |= {"strategy": "uniform", "granularity": "projection" if size < 1 else "module"}
        elif name == "upper":
            settings |= {"strategy": "uniform", "depth": int(size * 30) / 30, "granularity": "module", "min_rank": 0}
        elif name == "values-outputs":
            settings |= {"strategy": "uniform", "modules": "v_proj,o_proj", "granularity": "module"}
        elif name == "random":
            settings |= {"strategy": {"name": "random", "settings": {"seed": seed}}}
        else:
            settings |= {"strategy": name}
        if name not in ("even", "upper", "values-outputs", "random", "uniform", "mola"):
            given = {"spectra": self._spectra(), "sensitivity": self._sensitivity(task)}
        if name == "uniform":
            budget = f"rank {round(size)}"
        made = planner.allocate(budget, AllocationSettings.model_validate(settings), model=self.checkpoint, **given)
        return {site.name: sum(site.ranks) for site in made.sites if site.ranks}


def parameters(ranks: dict[str, int], shapes: dict[str, tuple[int, int]]) -> int:
    """Trainable parameters of a plan."""
    return sum(rank * sum(shapes[name]) for name, rank in ranks.items())
