"""Runs on disk: what comes back is what was trained, and what is damaged or of another base is named."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from planner import Plan
from spectra import InputError, open_checkpoint
from tests.trainer.examples import logits, uniform
from trainer import DataSettings, MixtureSettings, load_adapters
from trainer.adapters import store
from trainer.adapters.config import AdapterConfig, load_config
from trainer.adapters.reference_logits import reference_logits
from trainer.adapters.store import build, find_base, save_adapters
from trainer.run_folder import CHECKPOINTS, CONFIG, PEFT_CONFIG, PLAN, WEIGHTS


def config_for(checkpoint, **changes):
    values = {
        "base_model_name_or_path": checkpoint.source, "task": "causal", "labels": (), "label_counts": (),
        "data": DataSettings(max_length=16),
        "seed": 0, "pad_token_id": 2, "base_weights": checkpoint.weights, "mixture": MixtureSettings(),
    }  # fmt: skip
    return AdapterConfig(**values | changes)


def moved(model):
    """The model after something like training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def saved(tiny_llama, llama_plan, tmp_path):
    """A mixture on the tiny Llama that nobody trained, and its folder."""
    checkpoint = open_checkpoint(tiny_llama)
    config = config_for(checkpoint)
    model = moved(build(checkpoint, llama_plan, config))
    save_adapters(tmp_path / "run", model, llama_plan, config)
    return model, tmp_path / "run"


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns(CHECKPOINTS))


def test_a_built_model_computes_what_its_base_does_and_trains_its_head(tiny_llama, llama_plan):
    checkpoint = open_checkpoint(tiny_llama)
    model = build(checkpoint, llama_plan, config_for(checkpoint, task="classification", labels=("a", "b"), label_counts=(1, 1)))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "score.weight" in trained
    assert {name.rpartition(".")[2] for name in trained} == {"A", "B", "router", "weight"}


def test_what_was_saved_comes_back(saved, llama_plan):
    model, folder = saved
    loaded = load_adapters(folder)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    assert Plan.load(folder / PLAN).to_json() == llama_plan.to_json()
    assert load_config(folder).reference == reference_logits(model)


def test_peft_refuses_a_mixture_instead_of_misreading_it(saved):
    _, folder = saved
    assert json.loads((folder / PEFT_CONFIG).read_text())["load_with"] == "trainer.load_adapters"
    with pytest.raises((KeyError, ValueError), match="LORAPLAN_MIXTURE"):
        peft.PeftConfig.from_pretrained(folder)


def test_only_the_main_process_writes(tiny_llama, llama_plan, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(tiny_llama)
    config = config_for(checkpoint)
    monkeypatch.setenv("RANK", "1")
    save_adapters(tmp_path / "run", build(checkpoint, llama_plan, config), llama_plan, config)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_gives_back_other_values_is_noticed(tiny_llama, llama_plan, tmp_path, monkeypatch):
    checkpoint = open_checkpoint(tiny_llama)
    config = config_for(checkpoint)
    model = moved(build(checkpoint, llama_plan, config))
    monkeypatch.setattr(store, "load", lambda content: {name: tensor + 1 for name, tensor in load(content).items()})
    with pytest.raises(InputError, match="reading it back gives other values than were written; the disk is not to be trusted"):
        save_adapters(tmp_path / "run", model, llama_plan, config)


def test_a_changed_tensor_is_noticed_by_its_logits(saved):
    _, folder = saved
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if name.endswith(".B"))
    save_file(tensors | {name: tensors[name] + 1}, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: the loaded model's logits differ by"):
        load_adapters(folder)
    save_file(tensors | {name: tensors[name] * torch.nan}, folder / WEIGHTS)
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        load_adapters(folder)


def test_a_changed_tensor_of_a_peft_compatible_run_is_noticed_too(tiny_llama, lora_plan, tmp_path):
    checkpoint = open_checkpoint(tiny_llama)
    config = config_for(checkpoint)
    save_adapters(tmp_path, moved(build(checkpoint, lora_plan, config)), lora_plan, config)
    tensors = load_file(tmp_path / WEIGHTS)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name] = tensors[name] + torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="the loaded model's logits differ by"):
        load_adapters(tmp_path)


def test_damaged_runs_are_named(saved, tmp_path):
    _, folder = saved
    with pytest.raises(InputError, match=r"not a finished run: no loraplan\.json"):
        load_adapters(tmp_path)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: not a readable safetensors file"):
        load_adapters(folder)
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace('"base_model_name_or_path": "', '"base_model_name_or_path": "/moved'))
    with pytest.raises(InputError, match="no such folder; if the base model has moved, say where with `base`"):
        load_adapters(folder)
    (folder / CONFIG).write_text(text)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: not a readable safetensors file"):
        load_adapters(folder)


def test_the_base_is_where_the_run_found_it_or_where_the_user_says(saved, tiny_llama, tmp_path):
    model, folder = saved
    there = shutil.copytree(tiny_llama, tmp_path / "moved")
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace(str(tiny_llama), "/nowhere"))
    assert find_base(load_config(folder), there).folder == there
    assert torch.equal(logits(load_adapters(folder, there)), logits(model))
    with pytest.raises(InputError) as caught:
        find_base(load_config(folder), "/also/nowhere")
    assert "`base`" not in str(caught.value)  # the user has said where


def test_a_run_is_not_put_on_another_base(saved, tiny_llama, tmp_path):
    _, folder = saved
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="not the base model of this run: same architecture, other weights"):
        load_adapters(folder, other)


def test_a_plan_for_another_model_is_not_built(tiny_llama, tiny_olmoe, lora_plan):
    checkpoint = open_checkpoint(tiny_olmoe)
    with pytest.raises(InputError, match="plan was made for another model"):
        build(checkpoint, lora_plan, config_for(checkpoint))


@pytest.mark.training
def test_loading_gives_back_the_trained_model(run):
    model, stored = load_adapters(run), load_file(run / WEIGHTS)
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    assert not model.training


@pytest.mark.training
def test_a_moved_base_of_a_trained_run_is_asked_for(run, tmp_path):
    broken = copy_of(run, tmp_path)
    text = (broken / CONFIG).read_text()
    (broken / CONFIG).write_text(text.replace('"base_model_name_or_path": "', '"base_model_name_or_path": "/moved'))
    with pytest.raises(InputError, match="no such folder; if the base model has moved, say where with `base`"):
        load_adapters(broken)


def test_a_plan_of_zero_loras_is_no_peft_adapter(tiny_llama, tmp_path):
    checkpoint = open_checkpoint(tiny_llama)
    plan = uniform(tiny_llama, "rank 1").without_adapters()
    config = config_for(checkpoint, task="classification", labels=("a", "b"), label_counts=(1, 1))
    save_adapters(tmp_path, build(checkpoint, plan, config), plan, config)
    assert json.loads((tmp_path / PEFT_CONFIG).read_text())["peft_type"] == "LORAPLAN_MIXTURE"
    assert load_file(tmp_path / WEIGHTS).keys() == {"score.weight"}
    load_adapters(tmp_path)
