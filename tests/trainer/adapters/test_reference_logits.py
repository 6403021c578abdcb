"""A model's logits on a fixed row of tokens: what they are, and when they differ too much."""

import math

import pytest
import torch

from spectra import InputError, open_checkpoint
from tests import models
from trainer.adapters.reference_logits import (
    TOKENS,
    TOLERANCE,
    ReferenceLogits,
    disagreement,
    reference_logits,
    require_same_logits,
)
from trainer.base_model import load_model


def noted(*logits):
    return ReferenceLogits(ids=(1,), logits=logits)


def test_they_are_the_logits_on_a_fixed_row():
    model = models.build("llama").eval()
    found = reference_logits(model)
    assert len(found.ids) == len(found.logits) == TOKENS
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([found.ids])).logits[0, -1, :TOKENS]
    assert found.logits == pytest.approx(logits.tolist(), abs=1e-6)
    assert reference_logits(model) == found


def test_padding_is_not_among_the_tokens():
    model = models.build("olmoe")
    model.config.pad_token_id = 11  # where the row would begin
    assert 11 not in reference_logits(model).ids


def test_of_a_classifier_they_are_those_of_the_classes(tiny_llama):
    model = load_model(open_checkpoint(tiny_llama), "classification", ("a", "b", "c"), seed=0, pad_token_id=2)
    assert len(reference_logits(model).logits) == 3


@pytest.mark.parametrize("training", [True, False])
def test_noting_leaves_the_model_as_it_was(training):
    model = models.build("llama").train(training)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    one, other = reference_logits(model), reference_logits(model)
    assert one == other
    assert model.training == training
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


def test_disagreement_is_relative_to_the_largest_logit_or_one():
    assert disagreement(noted(1.0, -4.0), noted(1.0, -5.0)) == pytest.approx(0.2)
    assert disagreement(noted(0.1), noted(0.2)) == pytest.approx(0.1)
    assert math.isnan(disagreement(noted(math.nan), noted(1.0)))


@pytest.mark.parametrize("precision", TOLERANCE)
def test_more_than_rounding_is_refused_and_so_is_nan(precision, tmp_path):
    model = models.build("llama")
    found = reference_logits(model)
    largest = max(1.0, *map(abs, found.logits))

    def shifted(by):
        return found.model_copy(update={"logits": (found.logits[0] + by * largest, *found.logits[1:])})

    require_same_logits(model, None, [precision], tmp_path)  # an older run noted none
    require_same_logits(model, found, [precision], tmp_path)
    require_same_logits(model, shifted(TOLERANCE[precision] / 2), [precision], tmp_path)
    for odd in (shifted(3 * TOLERANCE[precision]), shifted(math.nan)):
        with pytest.raises(InputError, match=r"the loaded model's logits differ by .* of the largest .* wrong base model?"):
            require_same_logits(model, odd, [precision], tmp_path)
