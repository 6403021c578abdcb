"""Every option of training, alone and in pairs: it changes something, or it is refused by name."""

from itertools import combinations

import pytest

from spectra import InputError
from tests.trainer.examples import uniform
from trainer import TrainSettings
from trainer.training.effects import RULES, Situation, in_effect, require_effect, without_effect

OTHER = {
    "router": "constant", "balance_loss": 0.01, "z_loss": 0.001, "dropout": 0.1, "init": "svd", "alpha": 2.0, "lr_ratio": 2.0,
    "growth_events": 3, "growth_penalty": 1.0, "growth_per_event": 0.2, "growth_start": 1, "growth_most": 9,
    "growth_handout": "one-pass", "growth_every": 5, "growth_decay": 0.5, "growth_reset": True, "saliency": "absolute",
    "epochs": 1.0, "max_steps": 7, "evaluations": 3, "loss_on": "all", "grow": True,
    "growth_share": "softmax", "growth_tokens": "all", "group_by_length": True, "packing": True, "train_router": True,
    "turns": "last", "chat_template": "chatml", "template_option": "a=b", "template_date": "2026-01-31", "role_map": "a=user",
    "join": "space",
}  # fmt: skip


@pytest.fixture(scope="module")
def plans(tiny_llama):
    plain = uniform(tiny_llama, "rank 2", max_experts=1)
    return {
        "plain": plain,
        "mixtures": uniform(tiny_llama, "30k", expert_rank=4, max_experts=3, max_rank=12),
        "pairs": uniform(tiny_llama, "20k", expert_rank=4, max_experts=2, max_rank=8),
        "nothing": plain.without_adapters(),
    }


def idle(plan, **given):
    about = {name: given.pop(name) for name in ("task", "evaluates") if name in given}
    return set(without_effect(Situation(plan=plan, settings=TrainSettings(**given), **about)))


def test_usual_settings_are_never_refused(plans):
    assert all(idle(plan, task=task) == set() for plan in plans.values() for task in ("causal", "classification", None))


def test_every_rule_is_about_settings_that_exist():
    assert {name for rule in RULES for name in rule.settings} <= TrainSettings.model_fields.keys()
    assert OTHER.keys() >= {name for rule in RULES for name in rule.settings}


@pytest.mark.parametrize(
    ("plan", "given", "expected"),
    [
        ("plain", {"router": "sira", "balance_loss": 0.1}, {"router", "balance_loss"}),
        ("mixtures", {"router": "sira", "balance_loss": 0.1}, set()),
        ("mixtures", {"router": "dense", "balance_loss": 0.1}, {"balance_loss"}),
        ("pairs", {"balance_loss": 0.1}, {"balance_loss"}),  # two experts, of which a token uses two
        ("pairs", {"router": "sira", "balance_loss": 0.1}, set()),
        ("nothing", {"dropout": 0.1, "init": "svd"}, {"dropout", "init"}),
        ("mixtures", {"growth_start": 1}, {"growth_start"}),
        ("mixtures", {"growth_share": "softmax", "growth_tokens": "all"}, {"growth_share", "growth_tokens"}),
        ("mixtures", {"grow": True, "growth_tokens": "all", "task": "classification"}, {"growth_tokens"}),
        ("mixtures", {"train_router": True}, {"train_router"}),
        ("plain", {"group_by_length": True, "packing": True}, {"group_by_length"}),
        ("plain", {"group_by_length": True}, set()),
        ("mixtures", {"growth_start": 1, "grow": True}, set()),
        ("mixtures", {"growth_every": 5, "growth_events": 3, "grow": True}, {"growth_events"}),
        ("plain", {"epochs": 1.0, "max_steps": 5}, {"epochs"}),
        ("plain", {"evaluations": 3}, {"evaluations"}),
        ("plain", {"evaluations": 3, "evaluates": True}, set()),
        ("plain", {"loss_on": "all", "task": "classification"}, {"loss_on"}),
        ("plain", {"loss_on": "all", "task": "causal"}, set()),
    ],
)
def test_what_changes_nothing_is_found(plans, plan, given, expected):
    assert idle(plans[plan], **given) == expected


@pytest.mark.parametrize("plan", ["plain", "mixtures", "nothing"])
def test_whatever_is_left_of_any_pair_of_options_has_an_effect(plans, plan):
    for names in [*combinations(OTHER, 1), *combinations(OTHER, 2)]:
        given = {name: OTHER[name] for name in names}
        run = Situation(plan=plans[plan], settings=TrainSettings(**given), task="classification")
        found = without_effect(run)
        assert found.keys() <= set(names)
        kept = in_effect(run)
        assert without_effect(Situation(plan=plans[plan], settings=kept, task="classification")) == {}
        assert all(
            getattr(kept, name) == TrainSettings.model_validate(given).__getattribute__(name)
            for name in set(names) - found.keys()
        )


def test_the_first_is_named_with_the_reason(plans):
    run = Situation(plan=plans["plain"], settings=TrainSettings(growth_start=2))
    with pytest.raises(InputError, match="`growth_start` has no effect without `grow`; leave it out"):
        require_effect(run)
