"""Models of routed experts the whole way: probed, planned, trained, evaluated, loaded, merged, resumed."""

import json

import pytest
import torch
import transformers

import planner
import spectra
from planner import AllocationSettings
from spectra import open_checkpoint
from tests import models
from tests.trainer.examples import SHORT, assert_same_bytes, kill_at, logits
from trainer import apply_plan, evaluate, load_adapters, load_sample, merge, train
from trainer.layers.inject import trainable_parameters
from trainer.run_folder import PEFT_CONFIG
from trainer.settings import DataSettings

pytestmark = pytest.mark.training


@pytest.fixture(scope="module", params=models.MOE_FAMILIES)
def checkpoint(request, tmp_path_factory):
    """A tiny model of a family with the tiny Llama's tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    models.without_zeros(models.build(request.param)).save_pretrained(folder)
    models.save_tokenizer(folder)
    return folder


EIGHT = SHORT.model_copy(update={"max_steps": 8, "learning_rate": 2e-2})


def test_from_checkpoint_to_merged_model(checkpoint, sentences, tmp_path):
    opened = open_checkpoint(checkpoint)
    sample = load_sample(opened, sentences, samples=8, settings=DataSettings(max_length=32), seed=0)
    sensitivity = planner.probe(sample.model, sample.batches, checkpoint=opened)
    report = spectra.analyze(checkpoint)
    plan = planner.allocate("2000", AllocationSettings(strategy="dr-lora"), spectra=report, sensitivity=sensitivity)
    adapted = [site for site in plan.sites if site.ranks]
    assert len({site.ranks for site in adapted}) > 1
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = logits(base)
    built = apply_plan(base, plan)
    assert trainable_parameters(built) == plan.parameters
    torch.testing.assert_close(logits(built), before, rtol=1e-5, atol=1e-5)
    train(plan, checkpoint, sentences, tmp_path / "run", EIGHT)
    result = evaluate(tmp_path / "run", sentences)
    assert result.trained["loss"] < result.untrained["loss"]
    model = load_adapters(tmp_path / "run")
    ours = logits(model)
    assert (ours - before).abs().max() > 1e-3
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False).shape == (1, 6)
    alone = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"), dtype=torch.float32)
    torch.testing.assert_close(ours, logits(alone), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "run" / PEFT_CONFIG).read_text())["peft_type"] == "LORAPLAN_MIXTURE"


def test_runs_on_experts_resume_to_the_same_bits(tiny_olmoe, sentences, tmp_path):
    plan = planner.allocate("20k", AllocationSettings(strategy="random"), model=open_checkpoint(tiny_olmoe))
    assert any(site.ranks for site in plan.sites if site.routed)
    assert any(site.ranks for site in plan.sites if not site.routed)
    train(plan, tiny_olmoe, sentences, tmp_path / "whole", EIGHT)
    with pytest.raises(RuntimeError, match="killed"):
        train(plan, tiny_olmoe, sentences, tmp_path / "cut", EIGHT, progress=kill_at(5))
    train(plan, tiny_olmoe, sentences, tmp_path / "cut", EIGHT, resume=True)
    assert_same_bytes(tmp_path / "whole", tmp_path / "cut")
