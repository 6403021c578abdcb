"""AllocationSettings: the knobs of `plan allocate`. Every default can be left alone."""

from typing import Annotated, Literal

from pydantic import Field

from planner.sensitivity.report import Statistic
from spectra.core.documents import Value

Granularity = Literal["model", "layer", "projection", "expert", "module"]
Whole = Annotated[int, Field(ge=1)]


class AllocationSettings(Value):
    """How a budget is shared out."""

    expert_rank: Whole | None = None
    """Rank that one LoRA expert grows to before the next is added; by default 8, less if the budget is tight."""
    max_experts: Whole | None = None
    """Most experts per module; 1 for plain LoRA without routers. By default 8, for `uniform` and `combined` 1 unless an expert's rank is given or the budget is in experts."""  # noqa: E501
    top_k: Whole = 2
    """Experts that a token uses, where there are as many."""
    min_rank: Annotated[int, Field(ge=0)] | None = None
    """Least total rank of a module; by default 1, for `combined` 0 at routed experts. With 0 the solver may leave modules out, but for strategies that share in proportion."""  # noqa: E501
    max_rank: Whole | None = None
    """Most total rank of a module; by default 8 times what the budget affords on average."""
    rank_multiple: Whole = 1
    """Every expert's rank is a multiple of this; 8 suits grouped kernels."""
    depth: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the layers, from the output down, that may have capacity; a training step needs no backward pass below them."""
    granularity: Granularity | None = None
    """Modules that share one answer: all, those of a layer, of a projection type, of a base expert, or each for itself; by default the strategy's own."""  # noqa: E501
    estimator: str | None = None
    """Whose alphas to use, among those in the spectra report; by default the report's own choice."""
    statistic: Statistic = "squared-gradient"
    """Which gradient statistic counts as sensitivity."""
    beta: Annotated[float, Field(gt=0, le=100)] = 2.5
    """alphalora: exponent of alpha."""
    shape: Literal["rectangle", "inverted-triangle", "triangle", "hourglass", "diamond"] = "inverted-triangle"
    """mola: experts by quarter of the depth, 5555, 2468, 8642, 8228 or 2882."""
    grouping: Literal["projection", "block", "all"] = "projection"
    """lora-smoe: modules that compete: those of one type, of attention and of the MLP, or all."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """random: of the draw."""
    parity: bool = False
    """As released: alphalora's rounding repair, the literal expert counts of lora-smoe and mola."""
