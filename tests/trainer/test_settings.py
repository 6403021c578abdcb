"""The settings of a run: defaults that need nothing, own settings of a router, and what is refused."""

import pytest

from spectra import InputError
from spectra.core.methods import Method
from trainer import MixtureSettings, ProbeSettings, TrainSettings
from trainer.initializers import INITIALIZERS
from trainer.routers import ROUTERS
from trainer.routers.sira import SiraSettings


@pytest.mark.parametrize("settings", [MixtureSettings, TrainSettings, ProbeSettings])
def test_every_default_can_be_left_alone_and_every_setting_says_what_it_is(settings):
    assert settings() == settings.model_validate(settings().model_dump())
    assert all(field.description for field in settings.model_fields.values())


def test_a_router_is_given_by_its_name_or_with_its_own_settings():
    assert TrainSettings().router.name == "topk"
    plain = TrainSettings(router="sira")
    assert (plain.router.name, plain.router.settings) == ("sira", SiraSettings())
    tight = TrainSettings(router={"name": "sira", "settings": {"capacity": 0.5}})
    assert tight.router.settings == SiraSettings(capacity=0.5, expert_dropout=0.1)
    assert TrainSettings.model_validate_json(tight.model_dump_json()) == tight


@pytest.mark.parametrize("table", [ROUTERS, INITIALIZERS])
def test_a_row_added_while_running_can_be_chosen(table, monkeypatch):
    name = "router" if table is ROUTERS else "init"
    monkeypatch.setitem(table, "mine", Method(print) if table is ROUTERS else print)
    assert str(getattr(MixtureSettings.model_validate({name: "mine"}), name)) == "mine"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"router": "best"}, "here: router 'best': not one of topk, sira, dense, constant"),
        ({"router": {"name": "sira", "settings": {"capacity": 0}}}, "router sira: capacity: .*greater than 0, got 0"),
        ({"router": {"name": "topk", "settings": {"capacity": 1}}}, "router topk: capacity: Extra inputs are not permitted"),
        ({"capacity": 1.0}, "here: capacity: Extra inputs are not permitted, got 1.0"),
        ({"init": "zeros"}, "here: init 'zeros': not one of kaiming, svd"),
        ({"dropout": 1.0}, "here: dropout: .*less than 1"),
        ({"alpha": 0}, "here: alpha: .*greater than 0"),
        ({"max_length": 1}, "here: max_length: .*greater than 1"),
        ({"learning_rate": float("inf")}, "here: learning_rate: .*finite"),
        ({"seed": 2**32}, "here: seed: .*less than 4294967296"),
        ({"batch_size": 0, "warmup": -1}, r"here: batch_size: .*greater than 0, got 0 \(and 1 more\)"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainSettings.checked(given, "here")
    assert "\n" not in str(caught.value)


def test_the_mixtures_part_is_what_rebuilding_takes():
    settings = TrainSettings(router="dense", dropout=0.2, init="svd", alpha=2.0, learning_rate=0.5)
    assert settings.mixture() == MixtureSettings(router="dense", dropout=0.2, init="svd", alpha=2.0)
    assert type(settings.mixture()) is MixtureSettings


@pytest.mark.parametrize("given", [{"samples": 0}, {"max_length": 1}, {"trial_steps": -1}, {"batch_size": 0}])
def test_a_probe_of_nothing_is_refused(given):
    with pytest.raises(InputError, match=next(iter(given))):
        ProbeSettings.checked(given, "here")
