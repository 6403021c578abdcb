import pytest

from planner import STRATEGIES, AllocationSettings, allocate
from planner.strategies import Demand
from planner.strategies.growth import GrowthRule
from spectra.core.methods import Method, NoSettings


def test_the_names_of_the_strategies_in_the_order_in_which_they_are_listed():
    assert list(STRATEGIES) == [
        "uniform", "random", "mola", "alphalora", "lora-smoe", "sensitivity", "effective-rank", "dr-lora", "hot-experts",
        "combined",
    ]  # fmt: skip


def test_who_has_settings_of_its_own():
    own = {name: list(row.settings.model_fields) for name, row in STRATEGIES.items() if row.settings is not NoSettings}
    assert own == {
        "random": ["seed"],
        "mola": ["shape", "parity"],
        "alphalora": ["beta", "parity"],
        "lora-smoe": ["grouping", "top_percent", "parity"],
        "dr-lora": list(GrowthRule.model_fields),
        "hot-experts": ["hot_share"],
        "combined": ["incomplete"],
    }


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_row_says_what_it_does_and_its_settings_what_they_are(name):
    row = STRATEGIES[name]
    assert row.run.__doc__
    assert all(field.description for field in row.settings.model_fields.values())
    assert row.settings()  # every default can be left alone


def test_a_strategy_is_one_function_and_one_line(evidence, monkeypatch):
    def first_layer(evidence, settings):
        return Demand(weights=tuple(float(site.layer[1] == 0) for site in evidence.sites))

    monkeypatch.setitem(STRATEGIES, "first-layer", Method(first_layer))
    plan = allocate("rank 1", AllocationSettings(strategy="first-layer"), **evidence)
    assert {site.name.split(".")[2] for site in plan.sites if site.ranks} == {"0"}
    assert plan.strategy == plan.settings.strategy.name == "first-layer"
