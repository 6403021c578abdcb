"""What a run is made of, before it begins; files and plans that are refused are in test_train.py."""

import pytest

from planner.plan import TrainingHints
from spectra import InputError, open_checkpoint
from tests.trainer.examples import SHORT, uniform, write_rows
from trainer import TrainSettings
from trainer.training.prepare import prepare, with_hints


@pytest.fixture(scope="module")
def plan(tiny_llama):
    return uniform(tiny_llama, "rank 1")


def hinted(plan, **values):
    return plan.model_copy(update={"training": TrainingHints(found="a search", **values)})


def test_hints_stand_where_nothing_was_chosen(plan):
    found = with_hints(TrainSettings(alpha=2.0), hinted(plan, learning_rate=5e-3, alpha=8.0, init="svd"))
    assert (found.learning_rate, found.alpha, found.init) == (5e-3, 2.0, "svd")
    assert found.model_fields_set == {"learning_rate", "alpha", "init"}


def test_without_hints_the_settings_are_the_same(plan):
    settings = TrainSettings(alpha=2.0)
    assert with_hints(settings, plan) is settings
    assert with_hints(settings, hinted(plan, alpha=8.0)) is settings


def test_a_hint_that_cannot_be_used_is_named(plan):
    with pytest.raises(InputError, match="the plan's training hints: init 'magic': not one of"):
        with_hints(TrainSettings(), hinted(plan, init="magic"))


def test_the_digest_knows_every_file_and_weight(plan, tiny_llama, tmp_path):
    files = [write_rows(tmp_path / f"{name}.jsonl", [{"text": f"the file {name}"}] * 4) for name in ("open", "read")]
    opened = open_checkpoint(tiny_llama)
    digests = {
        prepare(plan, opened, given, weights, evaluation, SHORT).data_sha256
        for given, weights, evaluation in [
            (files[:1], None, None),
            (files, None, None),
            (files[::-1], None, None),
            (files, [1, 2], None),
            (files[:1], None, files[1]),
        ]
    }
    assert len(digests) == 5
