"""The table of allocation strategies: evidence in, demand out. A new strategy is one file and one line here."""

from collections.abc import Callable

from planner.evidence.evidence import Evidence
from planner.settings import AllocationSettings
from planner.strategies.alphalora import alphalora
from planner.strategies.combined import combined
from planner.strategies.demand import Demand
from planner.strategies.dr_lora import dr_lora
from planner.strategies.hot_experts import hot_experts
from planner.strategies.lora_smoe import lora_smoe
from planner.strategies.mola import mola
from planner.strategies.random import random
from planner.strategies.sensitivity import sensitivity
from planner.strategies.uniform import uniform

Strategy = Callable[[Evidence, AllocationSettings], Demand]

STRATEGIES: dict[str, Strategy] = {
    "uniform": uniform,
    "random": random,
    "mola": mola,
    "alphalora": alphalora,
    "lora-smoe": lora_smoe,
    "sensitivity": sensitivity,
    "dr-lora": dr_lora,
    "hot-experts": hot_experts,
    "combined": combined,
}

__all__ = ["STRATEGIES", "Demand", "Strategy"]
