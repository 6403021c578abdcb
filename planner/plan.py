"""The Plan: which module gets how many LoRA experts of what ranks. What `plan allocate` writes and the trainer builds."""

import math
from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.settings import AllocationSettings
from planner.solver.budget import site_cost
from spectra import Checkpoint, InputError
from spectra.checkpoint.names import expert_index, resolve
from spectra.core.documents import Document, Measured, Value
from spectra.report import ModelInfo

Rank = Annotated[int, Field(ge=1, lt=2**31)]
Side = Annotated[int, Field(ge=1, lt=2**31)]


class PlannedSite(Value):
    """One linear module and the experts it gets. No ranks: the module stays as it is. One rank: a plain LoRA, no router."""

    name: str
    shape: tuple[Side, Side]
    """(d_out, d_in)."""
    ranks: tuple[Rank, ...]
    """One per expert."""
    top_k: Annotated[int, Field(ge=0)]
    """Experts that a token uses; 0 where there are none."""
    weight: float
    """How much the strategy wanted capacity here, relative to the mean site."""
    alpha: Measured
    """Power-law exponent that the weight rests on; NaN where no spectra were given."""
    sensitivity: Measured
    """Chosen gradient statistic per parameter that the weight rests on; NaN where no probe was given."""
    token_share: Measured = math.nan
    """Share of tokens that reach a routed expert; NaN elsewhere."""
    loss_reduction: Measured = math.nan
    """Loss reduction of its adapter in a trial run, in nats per example, averaged over tasks; NaN without one."""

    @property
    def parameters(self) -> int:
        """Trainable parameters of this site, router included."""
        return site_cost(self.shape, self.ranks)

    @property
    def routed(self) -> bool:
        """Whether the site belongs to a routed expert of the base model."""
        return expert_index(self.name) is not None

    @model_validator(mode="after")
    def _routes_to_existing_experts(self) -> Self:
        if not min(1, len(self.ranks)) <= self.top_k <= len(self.ranks):
            raise ValueError(f"{self.name}: top_k {self.top_k} does not fit {len(self.ranks)} experts")
        if max(self.ranks, default=0) > min(self.shape):
            raise ValueError(f"{self.name}: rank {max(self.ranks)} exceeds the smaller side of {list(self.shape)}")
        return self


class Budget(Value):
    """The plan's budget: what was allowed, and what is used."""

    request: str
    """As the user wrote it: `1%`, `2M`, `rank 8`, `match rank 8`, `160 experts`."""
    unit: Literal["parameters", "experts"]
    limit: int
    spent: int
    """In `unit`. Experts count as in AlphaLoRA: summed over layers, all projections of a layer sharing one count."""
    parameters: int
    """Trainable parameters of all adapters, routers included, whatever the unit."""


class Optimum(Value):
    """How good the allocation is for its own objective: the sum over sites of weight x parameters per rank x utility(rank).

    No allocation within the budget can exceed `bound`.
    """

    utility: Literal["log", "log1p"]
    objective: float
    bound: float
    gap: float
    """(bound - objective) / |bound|."""


class Source(Value):
    """A report that the plan was made from."""

    kind: Literal["spectra", "sensitivity"]
    sha256: str
    """Hash of the report's canonical text."""
    seconds: Measured = 0.0
    """What making it took, as far as it says."""


class Note(Value):
    """A sentence that a reader should know before trusting the plan."""

    about: str
    """Subject of the note, in a few fixed words."""
    text: str
    """Sentence that a reader sees."""
    link: str = ""
    """Where to read more."""


class TrainingHints(Value):
    """Settings that training the plan should use, unless it is told otherwise; what is None is left to the defaults."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    lr_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """B's learning rate over A's."""
    alpha: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Scale of the adapters."""
    init: str | None = None
    """How the A and B of a new expert start."""
    found: str
    """How they were found, in words."""

    def given(self) -> dict[str, float | str]:
        """The settings that it has a value for."""
        return self.model_dump(exclude={"found"}, exclude_none=True)

    def shown(self) -> str:
        """Those as people read them."""
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.given().items())


class Plan(Document):
    """A complete allocation. Sites are in network order and include those that get nothing."""

    kind: Literal["plan"] = "plan"
    model: ModelInfo
    strategy: str
    """Name of the strategy that made it; `none` for a baseline without adapters, `dr-lora-grown` for ranks grown in training."""
    settings: AllocationSettings
    version: str
    """Version of loraplan that made it."""
    made_from: tuple[Source, ...]
    budget: Budget
    optimum: Optimum | None
    """None where counts follow a formula instead of an objective."""
    sites: Annotated[tuple[PlannedSite, ...], Field(min_length=1)]
    notes: tuple[Note, ...]
    """The most important first."""
    training: TrainingHints | None = None
    """Settings for training that were found to suit the plan."""

    @property
    def parameters(self) -> int:
        """Trainable parameters of all adapters, routers included."""
        return sum(site.parameters for site in self.sites)

    def without_adapters(self) -> "Plan":
        """The baseline that adapts nothing: the same sites, all left alone, so that only a new task head is trained."""
        sites = tuple(site.model_copy(update={"ranks": (), "top_k": 0}) for site in self.sites)
        budget = self.budget.model_copy(update={"spent": 0, "parameters": 0})
        return self.model_copy(update={"strategy": "none", "budget": budget, "optimum": None, "sites": sites, "notes": ()})

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        name, count = Counter(site.name for site in self.sites).most_common(1)[0]
        if count > 1:
            raise ValueError(f"site {name!r} appears twice")
        if self.parameters != self.budget.parameters:
            raise ValueError(f"budget.parameters says {self.budget.parameters}, but the sites cost {self.parameters}")
        if self.budget.unit == "parameters" and self.budget.spent != self.parameters:
            raise ValueError(f"budget.spent says {self.budget.spent}, but the sites cost {self.parameters}")
        if self.budget.spent > self.budget.limit:
            raise ValueError(f"spent {self.budget.spent} {self.budget.unit} of a limit of {self.budget.limit}")
        return self


def mismatches(plan: Plan, checkpoint: Checkpoint) -> list[str]:
    """Everything that keeps a plan from being trained on a model, one line each; empty if it fits.

    Args:
        plan: the plan.
        checkpoint: the opened model; only its headers are looked at.
    """
    matrices = checkpoint.modules()
    try:
        found = resolve((site.name for site in plan.sites), list(matrices))
    except InputError as error:
        return [str(error)]
    faults = _architecture_fault(plan, checkpoint)
    # A foreign model is one fault, and not one for each of its sites.
    if not found:
        example = plan.sites[0].name
        return [*faults, f"none of its {len(plan.sites)} sites, such as {example!r}, is a module of {checkpoint.folder}"]
    for site in plan.sites:
        if site.name not in found:
            faults.append(f"site {site.name!r}: no such module in {checkpoint.folder}")
        elif matrices[found[site.name]] != site.shape:
            faults.append(f"site {site.name!r}: planned for shape {list(site.shape)}, found {list(matrices[found[site.name]])}")
    return faults


def _architecture_fault(plan: Plan, checkpoint: Checkpoint) -> list[str]:
    if plan.model.fingerprint in (None, checkpoint.fingerprint):
        return []
    sizes = f"{plan.model.parameters:,} parameters there, {checkpoint.parameters:,} here"
    return [f"plan was made for another model: {plan.model.name!r} with fingerprint {plan.model.fingerprint} ({sizes})"]


def require_match(plan: Plan, checkpoint: Checkpoint) -> None:
    """Refuse a plan that does not fit.

    Raises:
        InputError: the first mismatch, and how many more there are.
    """
    if faults := mismatches(plan, checkpoint):
        more = f" (and {len(faults) - 1} more; see plan check)" if len(faults) > 1 else ""
        raise InputError(f"{checkpoint.folder}: {faults[0]}{more}")
