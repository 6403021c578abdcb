import pytest
import torch

from planner import probe
from planner.modules.checkpointing import recompute
from spectra import InputError
from tests import models


class PlainModel(torch.nn.Module):
    """No transformers layers inside."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"lin": torch.nn.Linear(2, 2)})])

    def get_input_embeddings(self):
        return self.layers[0]["lin"]


def batch():
    ids = torch.randint(3, 25, (4, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_gradient_checkpointing_is_undone_and_needs_support():
    model = models.build("llama").train()
    probe(model, [batch()], gradient_checkpointing=True)
    assert model.training
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    with pytest.raises(InputError, match="PlainModel does not support gradient checkpointing"):
        probe(PlainModel(), [batch()], gradient_checkpointing=True)


def test_every_layer_is_computed_again_in_training_mode_alone():
    model, ran = models.build("llama"), []
    assert recompute(model) == list(model.model.layers)
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    inputs = batch()
    for training, passes in ((True, 2), (False, 1)):
        ran.clear()
        model.train(training)(**inputs).loss.backward()
        assert len(ran) == passes * 2


def test_gradients_are_the_same_and_random_numbers_are_replayed():
    found = []
    for again in (False, True):
        model = models.build("gpt2", attn_pdrop=0.2, resid_pdrop=0.2, embd_pdrop=0.2).train()
        if again:
            recompute(model)
        torch.manual_seed(3)
        model(**batch()).loss.backward()
        found.append(model.transformer.h[0].mlp.c_fc.weight.grad)
    torch.testing.assert_close(found[0], found[1])
