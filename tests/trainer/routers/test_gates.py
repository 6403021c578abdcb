import dataclasses

import pytest
import torch

from trainer.routers.gates import Gates, RouterContext


def test_a_context_is_of_evaluation_without_padding_unless_it_says_so():
    context = RouterContext(top_k=2)
    assert (context.training, context.token_mask) == (False, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.top_k = 3


def test_gates_are_an_answer_of_two_parts():
    given, picked = torch.zeros(1, 2), torch.ones(1, 2)
    gates, before = Gates(given, picked)
    assert gates is given
    assert before is picked
