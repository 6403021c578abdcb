"""The table of allocation strategies: evidence in, demand out. A new strategy is one file and one line here."""

from collections.abc import Callable
from typing import Any

from planner.evidence.evidence import Evidence
from planner.strategies.alphalora import AlphaLoraSettings, alphalora
from planner.strategies.combined import CombinedSettings, combined
from planner.strategies.demand import Demand
from planner.strategies.dr_lora import dr_lora
from planner.strategies.effective_rank import effective_rank
from planner.strategies.growth import GrowthRule
from planner.strategies.hot_experts import HotExpertsSettings, hot_experts
from planner.strategies.lora_smoe import LoraSmoeSettings, lora_smoe
from planner.strategies.mola import MolaSettings, mola
from planner.strategies.random import RandomSettings, random
from planner.strategies.sensitivity import sensitivity
from planner.strategies.uniform import uniform
from spectra.core.methods import Method

Strategy = Callable[[Evidence, Any], Demand]
"""Evidence and the strategy's own settings in, its demand out."""

STRATEGIES: dict[str, Method[Strategy]] = {
    "uniform": Method(uniform),
    "random": Method(random, RandomSettings),
    "mola": Method(mola, MolaSettings),
    "alphalora": Method(alphalora, AlphaLoraSettings),
    "lora-smoe": Method(lora_smoe, LoraSmoeSettings),
    "sensitivity": Method(sensitivity),
    "effective-rank": Method(effective_rank),
    "dr-lora": Method(dr_lora, GrowthRule),
    "hot-experts": Method(hot_experts, HotExpertsSettings),
    "combined": Method(combined, CombinedSettings),
}

__all__ = ["STRATEGIES", "Demand", "Strategy"]
