"""Adapters of routed experts in PEFT's packing: the real PEFT loads them with identical logits, and so do we."""

import json

import peft
import pytest
import torch
import transformers

import planner
from spectra import open_checkpoint
from tests.trainer.test_base_experts import FAMILIES, logits, make
from trainer import TrainSettings, evaluate, load_adapters, train

SHORT = TrainSettings(max_steps=4, batch_size=8, max_length=32, learning_rate=3e-2, precision="fp32")


def save(family, tokenizer, folder):
    make(family).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def one_rank_per_layer(plan, change):
    """The plan with other ranks for some sites, its budget adjusted."""
    sites = tuple(site.model_copy(update={"ranks": change(site)}) for site in plan.sites)
    sites = tuple(site.model_copy(update={"top_k": min(1, len(site.ranks))}) for site in sites)
    size = sum(site.parameters for site in sites)
    budget = plan.budget.model_copy(update={"spent": size, "parameters": size, "cap": max(size, plan.budget.cap)})
    return planner.Plan.model_validate(plan.model_copy(update={"sites": sites, "budget": budget, "optimum": None}).model_dump())


def all_parts(site):
    return (3,) if ".layers.1." in site.name and site.routed else (2,)


def up_and_down(site):
    return () if not site.routed or "gate" in site.name else (5,) if "down" in site.name else (2,)


# PEFT 0.21 looks for a pattern's key among modules only and warns, wrongly, that a parameter's is ignored.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what PEFT asks of transformers
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize("change", [all_parts, up_and_down])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_routed_experts_with_the_same_logits(family, change, tiny_llama, sentences, tmp_path):
    base = save(family, tiny_llama, tmp_path / "base")
    plan = one_rank_per_layer(
        planner.allocate(budget="rank 2", strategy="uniform", model=open_checkpoint(base), max_experts=1), change
    )
    train(plan, base, sentences, tmp_path / "run", SHORT)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert len(config["target_parameters"]) >= 2
    ours = logits(load_adapters(tmp_path / "run"))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = logits(model)
    theirs = logits(peft.PeftModel.from_pretrained(model, tmp_path / "run"))
    assert (ours - untouched).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert evaluate(tmp_path / "run", sentences).trained.loss > 0


def test_unequal_ranks_within_a_layer_are_refused_by_peft(tiny_llama, sentences, tmp_path):
    base = save("olmoe", tiny_llama, tmp_path / "base")
    plan = one_rank_per_layer(
        planner.allocate(budget="rank 2", strategy="uniform", model=open_checkpoint(base), max_experts=1),
        lambda site: (3,) if ".experts.1." in site.name else (2,),
    )
    train(plan, base, sentences, tmp_path / "run", SHORT)
    with pytest.raises((ValueError, KeyError)):
        peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "run")
