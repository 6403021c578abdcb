"""The table of allocation strategies: evidence in, demand out. A new strategy is one file and one line here."""

from collections.abc import Callable, Mapping

from planner.evidence import Evidence
from planner.strategies.alphalora import alphalora
from planner.strategies.combined import combined
from planner.strategies.demand import Demand
from planner.strategies.lora_smoe import lora_smoe
from planner.strategies.uniform import uniform

Strategy = Callable[[Evidence], Demand]

STRATEGIES: Mapping[str, Strategy] = {
    "uniform": uniform,
    "alphalora": alphalora,
    "lora-smoe": lora_smoe,
    "combined": combined,
}

__all__ = ["STRATEGIES", "Demand", "Strategy"]
