import pytest

from planner import AllocationSettings
from planner.strategies.alphalora import AlphaLoraSettings
from spectra import InputError


def test_every_default_can_be_left_alone():
    settings = AllocationSettings()
    assert settings.model_dump() == {
        "strategy": {"name": "combined", "settings": {"incomplete": False}}, "expert_rank": None, "max_experts": None, "top_k": 2,
        "min_rank": None, "max_rank": None, "rank_multiple": 1, "depth": 1.0, "modules": None, "granularity": None,
        "estimator": None, "statistic": "squared-gradient",
    }  # fmt: skip


def test_a_strategys_own_settings_travel_with_its_name_and_survive_the_disk():
    settings = AllocationSettings(strategy={"name": "alphalora", "settings": {"beta": 3.0}}, max_experts=4)
    assert settings.strategy.settings == AlphaLoraSettings(beta=3.0)
    again = AllocationSettings.model_validate_json(settings.model_dump_json())
    assert again == settings
    assert again.strategy.settings.beta == 3.0
    assert again != settings.model_copy(update={"max_experts": 5})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "best"}, "settings: strategy 'best': not one of uniform, random, mola, alphalora, lora-smoe, sensitivity"),
        ({"strategy": {"name": "mola", "settings": {"beta": 2}}}, "strategy mola: beta: Extra inputs are not permitted, got 2"),
        ({"beta": 2}, "settings: beta: Extra inputs are not permitted, got 2"),
        ({"expert_rank": 0}, "expert_rank: .*greater than or equal to 1, got 0"),
        ({"min_rank": -1}, "min_rank: .*greater than or equal to 0, got -1"),
        ({"depth": 0}, "depth: .*greater than 0, got 0"),
        ({"depth": 1.5}, "depth: .*less than or equal to 1, got 1.5"),
        (
            {"granularity": "block"},
            "granularity: Input should be 'model', 'layer', 'projection', 'expert' or 'module', got 'block'",
        ),
        ({"statistic": "hessian"}, "statistic: Input should be 'squared-gradient', .*got 'hessian'"),
    ],
)
def test_other_values_are_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        AllocationSettings.checked(given, "settings")
    assert "\n" not in str(caught.value)


def test_every_setting_says_what_it_is():
    assert all(field.description for field in AllocationSettings.model_fields.values())
