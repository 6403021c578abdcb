"""Budgets: what an allocation costs in trainable parameters, and how people write what they are willing to spend."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spectra import InputError

BUDGET_FORMS = (
    "trainable parameters (2000000, 500k, 2M), a share of the model (1%), a rank at every site (rank 8), experts (160 experts,"
    " or 5 experts per layer), the smallest budget whose plan matches a uniform rank by the strategy's own objective"
    " (match rank 8), or a plan file to match in size"
)
_NUMBER = re.compile(r"(?P<number>\d+(\.\d+)?(e\d+)?)\s*(?P<unit>|k|M|G|B|%|experts?(?P<each>\s+per\s+layer)?)", re.IGNORECASE)
_RANK = re.compile(r"(?P<match>match\s+)?rank\s*=?\s*(?P<rank>\d+)(\s+everywhere)?", re.IGNORECASE)
MOST, MOST_EXPERTS = 10**15, 10**6  # parameters and experts; beyond, nothing but a slip of the keyboard is meant
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLimit:
    """The most that may be spent, in trainable parameters or in experts."""

    request: str
    unit: Literal["parameters", "experts"]
    amount: int
    match_rank: int = 0
    """If positive: spend the least whose plan reaches the objective of this rank everywhere. The amount is at first its cost."""


def _amount(text: str, number: float, most: int = MOST) -> int:
    """A whole number that no budget exceeds."""
    if not number <= most:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise InputError(f"budget {shown!r} is more than {most:,}, which no model has a use for")
    return int(number)


def site_cost(shape: tuple[int, int], ranks: Sequence[int]) -> int:
    """Trainable parameters of one site.

    Args:
        shape: (d_out, d_in) of the frozen weight.
        ranks: one per expert.

    Returns:
        A and B of every expert, plus a router of shape (experts, d_in) where there is a choice between experts.
    """
    d_out, d_in = shape
    router = len(ranks) * d_in if len(ranks) > 1 else 0
    return sum(ranks) * (d_in + d_out) + router


def widest_rank(shape: tuple[int, int]) -> int:
    """The largest rank of a LoRA that has no more parameters than the matrix that it adapts; at least 1.

    Args:
        shape: (d_out, d_in) of the frozen weight.
    """
    return max(1, shape[0] * shape[1] // sum(shape))


def parse_budget(text: str, *, parameters: int, rank_cost: int, layers: int) -> BudgetLimit:
    """Read a budget.

    Args:
        text: `2000000`, `500k`, `2M`, `1%`, `rank 8`, `match rank 8`, `160 experts` or `5 experts per layer`.
        parameters: number in the model, which a share refers to.
        rank_cost: trainable parameters of one rank at every site.
        layers: number of layers that may get adapters.

    Raises:
        InputError: not one of these forms, or nothing to spend.
    """
    if found := _RANK.fullmatch(text.strip()):
        rank = _amount(text, float(found["rank"]))
        limit = BudgetLimit(request=text, unit="parameters", amount=rank * rank_cost, match_rank=rank if found["match"] else 0)
        whole = True
    elif found := _NUMBER.fullmatch(text.strip().replace(",", "").replace("_", "")):
        number, unit = float(found["number"]), found["unit"].lower()
        if unit.startswith("expert"):
            limit = BudgetLimit(
                request=text, unit="experts", amount=_amount(text, number * (layers if found["each"] else 1), MOST_EXPERTS)
            )
        else:
            amount = number / 100 * parameters if unit == "%" else number * _SCALES[unit]
            limit = BudgetLimit(request=text, unit="parameters", amount=_amount(text, amount))
        # 1.5M and 0.25% are amounts; a bare number counts parameters or experts, and has to be whole.
        whole = unit in _SCALES.keys() - {""} or unit == "%" or number.is_integer()
    else:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise InputError(f"budget {shown!r} cannot be read; write {BUDGET_FORMS}")
    if not whole or limit.amount < 1:
        raise InputError(f"budget {text!r} is not a positive whole number of {limit.unit}; write {BUDGET_FORMS}")
    return limit
