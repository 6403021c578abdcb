import copy

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import SensitivityReport, join, probe
from planner.sensitivity import example_losses, squared_norms
from spectra import InputError
from tests.reference.gradients import reference_squared_norms


def tiny_bert(labels=3):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=labels
    )
    return transformers.BertForSequenceClassification(config).double()


def tiny_llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24
    )
    return transformers.LlamaForCausalLM(config).double()


def classification_batch():
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(0, 50, (4, 9)), "attention_mask": mask, "labels": torch.tensor([0, 2, 1, 1])}


def language_batch():
    batch = classification_batch()
    return batch | {"labels": batch["input_ids"].where(batch["attention_mask"].bool(), -100)}


def plain_loss(model, example):
    """Cross-entropy in float64; transformers' own loss of a language model rounds to float32."""
    logits = model(input_ids=example["input_ids"], attention_mask=example["attention_mask"]).logits
    labels = example["labels"]
    if labels.ndim == 2:
        logits, labels = logits[0, :-1], labels[0, 1:]
    return torch.nn.functional.cross_entropy(logits, labels)


@pytest.mark.parametrize(("model", "batch"), [(tiny_bert, classification_batch), (tiny_llama, language_batch)])
def test_equals_plain_autograd_per_example(model, batch):
    model, batch = model(), batch()
    report = probe(model, [batch])
    reference = reference_squared_norms(model.eval(), batch, [site.name for site in report.sites], plain_loss)
    assert len(report.sites) == {"BertForSequenceClassification": 12, "LlamaForCausalLM": 14}[type(model).__name__]
    for site in report.sites:
        norms = np.array(reference[site.name])
        assert site.squared_gradient[0] == pytest.approx(norms.mean(), rel=1e-9)
        assert site.standard_error[0] == pytest.approx(norms.std(ddof=1) / 2, rel=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 10), st.integers(1, 10), st.integers(0, 999))
def test_squared_norms_with_and_without_forming_the_gradient(batch, tokens, d_in, d_out, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, d_in, generator=generator, dtype=torch.float64)
    d = torch.randn(batch, tokens, d_out, generator=generator, dtype=torch.float64)
    expected = torch.einsum("bto,bti->boi", d, x).square().sum((1, 2))
    torch.testing.assert_close(squared_norms(x, d), expected, rtol=1e-10, atol=1e-10)


def test_the_model_is_left_as_it_was():
    model = tiny_bert().train()
    model.classifier.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    probe(model, [classification_batch()])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["classifier.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_split_into_batches_does_not_matter():
    model, batch = tiny_bert(), classification_batch()
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 1), slice(1, 4))]
    whole, split = probe(model, [batch]), probe(model, halves)
    for one, other in zip(whole.sites, split.sites, strict=True):
        assert one.squared_gradient[0] == pytest.approx(other.squared_gradient[0], rel=1e-9)


def test_example_losses_are_transformers_losses():
    model, batch = tiny_llama().eval(), language_batch()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    singles = [model(**{key: value[i : i + 1] for key, value in batch.items()}).loss for i in range(4)]
    torch.testing.assert_close(example_losses(logits, batch["labels"]).float(), torch.stack(singles))


def test_tasks_are_joined_column_by_column():
    model = tiny_bert()
    one, other = (probe(model, [classification_batch()], task=task) for task in ("a", "b"))
    both = join([one, other])
    assert [task.name for task in both.tasks] == ["a", "b"]
    assert both.sites[0].squared_gradient == (*one.sites[0].squared_gradient, *other.sites[0].squared_gradient)
    with pytest.raises(InputError, match="'a' appears twice"):
        join([one, one])
    with pytest.raises(InputError, match="of different models"):
        join([one, probe(tiny_llama(), [language_batch()], task="c")])


def test_the_report_survives_the_disk(tmp_path):
    report = probe(tiny_bert(), [classification_batch()])
    report.save(tmp_path / "s.json")
    assert SensitivityReport.load(tmp_path / "s.json") == report


def test_damaged_models_and_empty_data_are_named():
    with pytest.raises(InputError, match="task 'task': no examples"):
        probe(tiny_bert(), [])
    broken = tiny_bert()
    broken.bert.encoder.layer[0].output.dense.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="loss of example 1 is not finite"):
        probe(broken, [classification_batch()])
    with pytest.raises(InputError, match="no linear module inside a numbered layer"):
        probe(torch.nn.Linear(2, 2), [])
