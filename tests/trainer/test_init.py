import pytest

import trainer
from trainer.adapters.merge import merge
from trainer.adapters.store import load_adapters
from trainer.data.sampling import load_sample
from trainer.evaluation.evaluate import evaluate
from trainer.layers.inject import apply_plan
from trainer.layers.mixture import MixtureLinear
from trainer.study.compare import compare
from trainer.training.train import train


def test_what_loads_torch_is_found_when_it_is_asked_for():
    found = {name: getattr(trainer, name) for name in trainer.__all__}
    expected = (MixtureLinear, apply_plan, compare, evaluate, load_adapters, load_sample, merge, train)
    assert {thing.__name__: thing for thing in expected}.items() <= found.items()


def test_what_is_not_there_is_missed_as_in_any_module():
    with pytest.raises(AttributeError, match="module 'trainer' has no attribute 'trai'"):
        trainer.trai  # noqa: B018
