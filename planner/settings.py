"""AllocationSettings: how a budget is shared out. Every default can be left alone."""

from typing import Annotated

from pydantic import Field

from planner.sensitivity.report import Statistic
from planner.strategies import STRATEGIES
from planner.strategies.demand import Granularity
from spectra.core.documents import Value
from spectra.core.methods import Choice, OneOf

Whole = Annotated[int, Field(ge=1, lt=2**31)]


class AllocationSettings(Value):
    """How a budget is shared out."""

    strategy: Annotated[Choice, OneOf(STRATEGIES, "strategy")] = "combined"
    """Rule that says how much every module wants capacity."""
    expert_rank: Whole | None = None
    """Rank that one LoRA expert grows to before the next is added. Default 8, or less if the budget is tight."""
    max_experts: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Maximum number of LoRA experts per module; 1 is plain LoRA without routers. Default 8; under `uniform` and `combined` 1, unless an expert's rank is given or the budget is in experts."""  # noqa: E501
    top_k: Whole = 2
    """Experts that a token uses, where there are as many."""
    min_rank: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Minimum total rank per module. Default 1; 0 for routed experts under `combined`. With 0, a module may be left without an adapter, except under proportional strategies."""  # noqa: E501
    max_rank: Whole | None = None
    """Maximum total rank per module. Default 8 times what the budget affords on average."""
    rank_multiple: Whole = 1
    """Number of which every expert's rank is a multiple; 8 suits grouped kernels."""
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the layers, counted from the output, that may get adapters. A training step needs no backward pass below them."""
    modules: str | None = None
    """Modules that may get adapters, separated by commas: names as PEFT's target_modules takes them, `attention`, `mlp`, or patterns of the whole name. A rank as budget counts these alone. Default: all linear modules of the layers."""  # noqa: E501
    granularity: Granularity | None = None
    """Modules that share one answer: all (model), those of a layer, of a projection type, of a base expert, or each for itself (module). Default: the strategy's own."""  # noqa: E501
    estimator: str | None = None
    """Estimator whose alphas to use, among those in the spectra report. Default: peak for `alphalora`, as its authors do; else the one that the report was made with."""  # noqa: E501
    statistic: Statistic = "squared-gradient"
    """Gradient statistic that counts as sensitivity."""
