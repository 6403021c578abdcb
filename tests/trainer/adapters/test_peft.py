"""Plans without routers in PEFT's terms: the real PEFT loads them with the same logits."""

import json

import peft
import pytest
import torch
import transformers

from tests import models
from tests.trainer.examples import logits, uniform, with_ranks
from trainer import MixtureSettings, apply_plan, load_adapters
from trainer.adapters.peft import PREFIX, from_peft, is_peft_compatible, peft_config, to_peft
from trainer.adapters.tensors import trained_state
from trainer.layers.mixture import mixtures
from trainer.run_folder import PEFT_CONFIG

DEPRECATED = "ignore:.*is deprecated and will be removed in v6:FutureWarning"  # PEFT's calls, not ours


@pytest.mark.training
@pytest.mark.filterwarnings(DEPRECATED)
def test_peft_loads_a_classifier_with_the_same_logits(lora_run, minilm):
    ours = load_adapters(lora_run)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=4)
    theirs = peft.PeftModel.from_pretrained(base, lora_run)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.training
@pytest.mark.filterwarnings(DEPRECATED)
def test_peft_loads_a_language_model_with_the_same_logits(language_run, tiny_llama):
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    untouched = logits(base)
    theirs = peft.PeftModel.from_pretrained(base, language_run)
    ours = logits(load_adapters(language_run))
    torch.testing.assert_close(ours, logits(theirs), rtol=1e-5, atol=1e-5)
    assert (ours - untouched).abs().max() > 1e-3


@pytest.mark.training
def test_every_module_has_one_scale(lora_run):
    config = json.loads((lora_run / PEFT_CONFIG).read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"] != {}


def test_one_lora_per_module_is_what_peft_can_express(tiny_llama, tiny_olmoe, llama_plan, lora_plan):
    assert is_peft_compatible(lora_plan)
    assert not is_peft_compatible(llama_plan)  # mixtures
    assert not is_peft_compatible(lora_plan.without_adapters())  # nothing to express
    some = with_ranks(lora_plan, lambda site: (2,) if "layers.1" in site.name else ())
    assert is_peft_compatible(some)
    routed = uniform(tiny_olmoe, "rank 2", max_experts=1)
    assert is_peft_compatible(routed)
    by_layer = with_ranks(routed, lambda site: (3,) if ".layers.1." in site.name and site.routed else (2,))
    by_expert = with_ranks(routed, lambda site: (3,) if ".experts.1." in site.name else (2,))
    assert (is_peft_compatible(by_layer), is_peft_compatible(by_expert)) == (True, False)


def test_the_configuration_names_every_module_with_its_rank(lora_plan):
    plan = with_ranks(lora_plan, lambda site: () if "k_proj" in site.name else (3,) if "q_proj" in site.name else (2,))
    made = peft_config(plan, "base", "classification", ["score.weight", "score.bias"], {}, doubled=False)
    assert (made["task_type"], made["r"], made["lora_alpha"], made["modules_to_save"]) == ("SEQ_CLS", 2, 2, ["score"])
    assert made["target_modules"] == sorted(site.name for site in plan.sites if site.ranks)
    assert made["rank_pattern"] == made["alpha_pattern"] == {site.name: 3 for site in plan.sites if "q_proj" in site.name}
    assert made["target_parameters"] is None
    doubled = peft_config(plan, "base", "causal", [], {}, doubled=True)
    assert (doubled["task_type"], doubled["r"], doubled["modules_to_save"]) == ("CAUSAL_LM", 4, None)


def test_beside_routed_experts_modules_of_their_names_are_named_by_their_weight():
    """DeepSeek's first layer is dense and has a shared expert later: PEFT would take those for routed ones."""
    plan = models_plan("deepseek-v3")
    names = {site.name for site in plan.sites if not site.routed and site.name.endswith("up_proj")}
    assert names
    made = peft_config(plan, "base", "causal", [], {"layer.experts.down_proj": 2}, doubled=False)
    assert {f"{name}.weight" for name in names} <= set(made["target_parameters"])
    assert not names & set(made["target_modules"])
    alone = peft_config(plan, "base", "causal", [], {}, doubled=False)
    assert names <= set(alone["target_modules"])


def models_plan(family):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return uniform(models.save_built(family, folder), "rank 2", max_experts=1)


@pytest.mark.parametrize("init", ["kaiming", "svd"])
def test_tensors_go_to_pefts_names_with_their_scaling_and_come_back(lora_plan, init):
    model = apply_plan(models.build("llama"), lora_plan, MixtureSettings(init=init))
    torch.manual_seed(0)
    with torch.no_grad():
        for mixture in mixtures(model).values():
            mixture.B.add_(torch.randn_like(mixture.B))
    state = trained_state(model)
    stored = to_peft(model, state)
    assert all(name.startswith(PREFIX) for name in stored)
    for name, mixture in mixtures(model).items():
        A, B = (stored[f"{PREFIX}{name}.lora_{side}.weight"] for side in "AB")
        expected = mixture.delta_weight()
        if init == "svd":  # PEFT starts from the original base, so what was taken off it is part of the adapter
            assert len(A) == 2 * mixture.ranks[0]
            expected = expected - mixture.scalings[0] * mixture.B0.double() @ mixture.A0.double()
        torch.testing.assert_close(B.double() @ A.double(), expected, rtol=1e-5, atol=1e-6)
    back = from_peft(model, stored)
    assert back.keys() == state.keys()
    for name in state:
        torch.testing.assert_close(back[name], state[name], rtol=1e-6, atol=1e-7)


def test_tensors_that_are_not_there_stay_missing(lora_plan):
    model = apply_plan(models.build("llama"), lora_plan)
    stored = to_peft(model, trained_state(model))
    name = next(iter(mixtures(model)))
    del stored[f"{PREFIX}{name}.lora_B.weight"]
    back = from_peft(model, stored)
    assert f"{name}.A" not in back
    assert f"{name}.lora_A.weight" in back
