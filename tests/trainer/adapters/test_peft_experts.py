"""Adapters of routed experts in PEFT's layout: the real PEFT loads them with identical logits, and so do we."""

import json

import peft
import pytest
import torch
import transformers

from tests import models
from tests.trainer.examples import SHORT as SIX
from tests.trainer.examples import logits, uniform, with_ranks
from trainer import apply_plan, evaluate, load_adapters, train
from trainer.adapters.peft_experts import experts_from_peft, experts_to_peft, tensor_ranks
from trainer.adapters.tensors import trained_state
from trainer.layers.expert_lora import expert_loras
from trainer.run_folder import PEFT_CONFIG

SHORT = SIX.model_copy(update={"max_steps": 4, "learning_rate": 3e-2})


def save(family, folder):
    models.without_zeros(models.build(family)).save_pretrained(folder)
    models.save_tokenizer(folder)
    return folder


def all_parts(site):
    return (3,) if ".layers.1." in site.name and site.routed else (2,)


def up_and_down(site):
    return () if not site.routed or "gate" in site.name else (5,) if "down" in site.name else (2,)


# PEFT 0.21 looks for a pattern's key among modules only and warns, wrongly, that a parameter's is ignored.
@pytest.mark.training
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what PEFT asks of transformers
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize("change", [all_parts, up_and_down])
@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_peft_loads_routed_experts_with_the_same_logits(family, change, sentences, tmp_path):
    base = save(family, tmp_path / "base")
    plan = with_ranks(uniform(base, "rank 2", max_experts=1), change)
    train(plan, base, sentences, tmp_path / "run", SHORT)
    config = json.loads((tmp_path / "run" / PEFT_CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert len(config["target_parameters"]) >= 2
    ours = logits(load_adapters(tmp_path / "run"))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    untouched = logits(model)
    theirs = logits(peft.PeftModel.from_pretrained(model, tmp_path / "run"))
    assert (ours - untouched).abs().max() > 1e-2
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert evaluate(tmp_path / "run", sentences).trained["loss"] > 0


@pytest.mark.training
def test_unequal_ranks_within_a_layer_are_refused_by_peft(sentences, tmp_path):
    base = save("olmoe", tmp_path / "base")
    plan = with_ranks(
        uniform(base, "rank 2", max_experts=1),
        lambda site: (3,) if ".experts.1." in site.name else (2,),
    )
    train(plan, base, sentences, tmp_path / "run", SHORT)
    with pytest.raises((ValueError, KeyError)):
        peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "run")


def adapted(family, change, folder):
    base = models.without_zeros(models.build(family))
    base.save_pretrained(folder)
    model = apply_plan(base, with_ranks(uniform(folder, "rank 2", max_experts=1), change))
    torch.manual_seed(0)
    with torch.no_grad():
        for lora in expert_loras(model).values():
            for part, ranks in lora.ranks.items():
                for expert, rank in enumerate(ranks):
                    torch.nn.init.normal_(lora.B[part][expert, :, :rank])
    return model


@pytest.mark.parametrize("change", [all_parts, up_and_down])
@pytest.mark.parametrize("family", models.MOE_FAMILIES)
def test_tensors_go_to_pefts_layout_and_come_back(family, change, tmp_path):
    model = adapted(family, change, tmp_path)
    state = trained_state(model)
    stored = experts_to_peft(model, state)
    assert not any("loraplan" in name for name in stored)
    found = experts_from_peft(model, stored)
    assert found.keys() == state.keys()
    for name in state:
        torch.testing.assert_close(found[name], state[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", models.EVERY_LAYER_ROUTED)
def test_a_stored_tensor_has_the_ranks_of_its_projections_together(family, tmp_path):
    ranks = tensor_ranks(adapted(family, all_parts, tmp_path))
    assert {name.rpartition(".")[2]: rank for name, rank in ranks.items() if ".layers.0." in name} == {
        "gate_up_proj": 4, "down_proj": 2
    }  # fmt: skip
    assert {name.rpartition(".")[2]: rank for name, rank in ranks.items() if ".layers.1." in name} == {
        "gate_up_proj": 6, "down_proj": 3
    }  # fmt: skip


def test_an_experts_product_stands_in_pefts_layout(tmp_path):
    """A expert by expert, B with the expert as its fastest index: what PEFT multiplies is our update."""
    model = adapted("olmoe", up_and_down, tmp_path)
    stored = experts_to_peft(model, trained_state(model))
    name, lora = next(iter(expert_loras(model).items()))
    lead = name.removesuffix(".loraplan")
    tensors = {key: value for key, value in stored.items() if key.startswith(lead)}
    (A,) = (value for key, value in tensors.items() if key.endswith("lora_A.weight") and value.shape == (4 * 5, 24))
    (B,) = (value for key, value in tensors.items() if key.endswith("lora_B.weight") and value.shape == (32, 5 * 4))
    for expert in range(4):
        rows, columns = A[5 * expert : 5 * expert + 5].double(), B[:, expert::4].double()
        torch.testing.assert_close(columns @ rows, lora.delta_weight("down_proj", expert), rtol=1e-5, atol=1e-6)


def test_tensors_that_are_not_there_stay_missing(tmp_path):
    model = adapted("olmoe", all_parts, tmp_path)
    stored = experts_to_peft(model, trained_state(model))
    gone = next(name for name in stored if name.endswith("lora_A.weight"))
    del stored[gone]
    found = experts_from_peft(model, stored)
    assert gone.replace("lora_A", "lora_B") in found
    assert len(found) < len(trained_state(model))
