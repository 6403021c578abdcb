"""A run without routers as an ordinary checkpoint."""

import pytest
import torch
import transformers
from torch import nn

from spectra import InputError
from tests import models
from tests.trainer.examples import SHORT, logits, uniform
from trainer import MixtureLinear, apply_plan, load_adapters, merge, train
from trainer.adapters import merge as module
from trainer.adapters.merge import merged
from trainer.layers.expert_lora import expert_loras
from trainer.layers.mixture import mixtures


@pytest.mark.training
@pytest.mark.parametrize("task", ["classification", "causal"])
def test_a_merged_model_needs_nothing_of_ours(lora_run, language_run, tmp_path, task):
    run, auto = (
        (lora_run, transformers.AutoModelForSequenceClassification)
        if task == "classification"
        else (language_run, transformers.AutoModelForCausalLM)
    )
    folder = merge(run, tmp_path / "merged")
    alone = auto.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(load_adapters(run)), logits(alone), rtol=1e-4, atol=1e-5)
    assert transformers.AutoTokenizer.from_pretrained(folder)("text")["input_ids"]
    with pytest.raises(InputError, match="already exists; choose another folder"):
        merge(run, folder)


@pytest.mark.training
def test_a_mixture_is_refused_and_nothing_is_written(run, tmp_path):
    with pytest.raises(InputError, match="has a router: a mixture cannot be folded into one weight"):
        merge(run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.training
def test_a_merge_that_changes_the_logits_writes_nothing(language_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "disagreement", lambda one, other: 0.5)
    with pytest.raises(InputError, match=r"merging changes logits by 0.5 of the largest; nothing was written"):
        merge(language_run, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.training
def test_a_run_on_half_precision_weights_can_be_merged(minilm, small_corpus, tmp_path):
    plan = uniform(minilm, "rank 2", max_experts=1)
    train(plan, minilm, small_corpus[0], tmp_path / "run", SHORT.model_copy(update={"precision": "bf16"}))
    alone = transformers.AutoModelForSequenceClassification.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"))
    ids = torch.arange(1000, 1012)[None]
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids).logits.float() for model in (load_adapters(tmp_path / "run"), alone))
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "olmoe", "gpt-oss", "deepseek-v3"])
def test_merging_in_memory_keeps_the_function_and_removes_every_trace(family, tmp_path):
    """GPT-2's Conv1D stores its weights the other way round."""
    base = models.without_zeros(models.build(family))
    base.save_pretrained(tmp_path)
    names = dict(base.named_parameters()).keys()
    model = apply_plan(base, uniform(tmp_path, "rank 2", max_experts=1))
    torch.manual_seed(0)
    with torch.no_grad():
        for mixture in mixtures(model).values():
            nn.init.normal_(mixture.B, std=0.1)
        for lora in expert_loras(model).values():
            for part, ranks in lora.ranks.items():
                for expert, rank in enumerate(ranks):
                    nn.init.normal_(lora.B[part][expert, :, :rank], std=0.1)
    before = logits(model)
    assert merged(model) is model
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    assert dict(model.named_parameters()).keys() == names
    assert (mixtures(model), expert_loras(model)) == ({}, {})
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_quantised_bases_are_refused():
    layer = MixtureLinear(nn.Linear(4, 4), [1], 1)
    layer.base.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match="site 'q': its base is quantised; load the model unquantised to merge"):
        merged(nn.ModuleDict({"q": layer}))
