"""Losses from labelled positions alone, against the model's own loss."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from planner import labelled_losses
from planner.modules import labelled as module
from planner.modules.labelled import is_separable, learned_positions, token_losses
from tests import models

FAMILIES = ("llama", "gpt2", "gemma2", "olmoe", "gpt-oss")


def batch_of(vocabulary, rows=3, tokens=9, seed=0):
    """Ids, a mask with padding on the right, and labels; one row has none."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < torch.randint(3, tokens + 1, (rows, 1), generator=generator)).long()
    labels = ids.masked_fill((torch.rand(rows, tokens, generator=generator) < 0.6) | (mask == 0), -100)
    labels[0, 2] = ids[0, 2] if mask[0, 2] else -100
    labels[-1] = -100
    return {"input_ids": ids, "attention_mask": mask}, labels


def trained(model):
    """A model of which the body's matrices want gradients and the head none."""
    model.requires_grad_(False)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_("layers." in name or "h." in name)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at_a_time", [2**24, 60])
def test_loss_and_gradients_are_the_models_own(family, at_a_time, monkeypatch, caplog):
    monkeypatch.setattr(module, "AT_A_TIME", at_a_time)
    model = trained(models.without_zeros(models.build(family)))
    inputs, labels = batch_of(model.config.vocab_size)
    with caplog.at_level(logging.INFO, "loraplan"):
        assert is_separable(model)
    assert not caplog.records
    found, rows = token_losses(model, inputs, labels)
    assert len(found) == int((labels[:, 1:] != -100).sum()) > 0
    assert rows.tolist() == (labels[:, 1:] != -100).nonzero()[:, 0].tolist()
    found.mean().backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    own = model(**inputs, labels=labels).loss
    own.backward()
    torch.testing.assert_close(found.mean(), own, rtol=1e-6, atol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(3, 12), st.integers(0, 99))
def test_every_example_has_the_mean_of_its_own_labels(rows, tokens, seed):
    model = models.build("llama").eval()
    inputs, labels = batch_of(model.config.vocab_size, rows, tokens, seed)
    found = labelled_losses(model, inputs, labels)
    torch.testing.assert_close(found, module.example_losses(model(**inputs).logits, labels), rtol=1e-5, atol=1e-6)


def test_the_head_sees_labelled_positions_only(monkeypatch):
    model = trained(models.build("llama"))
    inputs, labels = batch_of(model.config.vocab_size)
    is_separable(model)
    seen = []
    model.lm_head.register_forward_hook(lambda _module, given, _output: seen.append(given[0].numel() // given[0].shape[-1]))
    token_losses(model, inputs, labels)
    assert seen == [1, int((labels[:, 1:] != -100).sum())]  # one position for the model's own pass
    assert "forward" not in vars(model.model)


def test_a_trained_head_gets_its_gradient():
    model = models.build("llama", tie_word_embeddings=False).eval()
    inputs, labels = batch_of(model.config.vocab_size)
    token_losses(model, inputs, labels)[0].mean().backward()
    ours = model.lm_head.weight.grad.clone()
    model.zero_grad()
    model(**inputs, labels=labels).loss.backward()
    torch.testing.assert_close(ours, model.lm_head.weight.grad, rtol=1e-5, atol=1e-6)


class Looking(LlamaForCausalLM):
    """Its head looks at all positions."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **options):
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        states = outputs.last_hidden_state
        outputs["logits"] = self.lm_head(states + states.mean(1, keepdim=True))
        return outputs


def test_a_head_that_looks_at_other_positions_is_told_apart(caplog):
    torch.manual_seed(0)
    model = Looking(models.CONFIGS["llama"]()).train()
    inputs, labels = batch_of(model.config.vocab_size)
    with caplog.at_level(logging.INFO, "loraplan"):
        assert not is_separable(model)
        assert not is_separable(model)
    assert [record.getMessage() for record in caplog.records] == [
        "Looking: its head needs all positions, so losses take more memory and time"
    ]
    assert model.training
    assert model.model.layers[0].training
    found, _ = token_losses(model, inputs, labels)
    keep = labels[:, 1:] != -100
    expected = torch.nn.functional.cross_entropy(model(**inputs).logits[:, :-1][keep], labels[:, 1:][keep], reduction="none")
    torch.testing.assert_close(found, expected)


def test_a_classifier_is_asked_for_its_logits():
    model = models.build("bert", "AutoModelForSequenceClassification", num_labels=3).eval()
    ids = torch.randint(3, model.config.vocab_size, (2, 5))
    found = labelled_losses(model, {"input_ids": ids}, torch.tensor([0, 2]))
    torch.testing.assert_close(found.mean(), model(input_ids=ids, labels=torch.tensor([0, 2])).loss)


def test_a_token_is_learned_if_the_next_one_has_a_label():
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, -100, -100]])
    assert learned_positions(labels).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert learned_positions(torch.tensor([0, 1])) is None
