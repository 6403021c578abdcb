"""Runs without routers are stock PEFT adapters; runs with routers are refused by PEFT; both are checked on loading."""

import json
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import planner
import spectra
from spectra import InputError
from trainer import TrainSettings, load_adapters, merge, train
from trainer.adapters.reference_logits import reference_logits
from trainer.run_folder import PEFT_CONFIG, WEIGHTS

SHORT = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=1e-2, precision="fp32")


@pytest.fixture(scope="module")
def stock_run(minilm, spectra_report, small_corpus, tmp_path_factory):
    plan = planner.allocate(budget="1%", strategy="alphalora", max_experts=1, spectra=spectra_report)
    assert len({site.ranks for site in plan.sites}) > 1
    folder = tmp_path_factory.mktemp("stock") / "run"
    train(plan, minilm, small_corpus[0], folder, SHORT)
    return folder


@pytest.fixture(scope="module")
def language_run(tiny_llama, sentences, tmp_path_factory):
    plan = planner.allocate(budget="3000", strategy="uniform", max_experts=1, model=spectra.open_checkpoint(tiny_llama))
    folder = tmp_path_factory.mktemp("language") / "run"
    train(plan, tiny_llama, sentences, folder, SHORT)
    return folder


def logits(model, vocabulary=400):
    ids = torch.arange(5, 29).reshape(2, 12) % vocabulary
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # PEFT's calls, not ours
def test_peft_loads_a_classifier_with_the_same_logits(stock_run, minilm):
    ours = load_adapters(stock_run)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=4)
    theirs = peft.PeftModel.from_pretrained(base, stock_run)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
def test_peft_loads_a_language_model_with_the_same_logits(language_run, tiny_llama):
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    vocabulary = base.config.vocab_size
    untouched = logits(base, vocabulary)
    theirs = peft.PeftModel.from_pretrained(base, language_run)
    ours = logits(load_adapters(language_run), vocabulary)
    torch.testing.assert_close(ours, logits(theirs, vocabulary), rtol=1e-5, atol=1e-5)
    assert (ours - untouched).abs().max() > 1e-3


def test_every_module_has_one_scale(stock_run):
    config = json.loads((stock_run / PEFT_CONFIG).read_text())
    assert config["lora_alpha"] == config["r"]
    assert config["alpha_pattern"] == config["rank_pattern"] != {}


def test_peft_refuses_a_mixture(minilm, uniform_plan, small_corpus, tmp_path):
    train(uniform_plan, minilm, small_corpus[0], tmp_path / "run", SHORT)
    with pytest.raises((KeyError, ValueError), match="LORAPLAN_MIXTURE"):
        peft.PeftConfig.from_pretrained(tmp_path / "run")
    with pytest.raises(InputError, match="has a router: a mixture cannot be folded into one weight"):
        merge(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_a_merged_model_needs_nothing_of_ours(stock_run, language_run, tmp_path, kind):
    run, auto = (
        (stock_run, transformers.AutoModelForSequenceClassification)
        if kind == "classifier"
        else (language_run, transformers.AutoModelForCausalLM)
    )
    folder = merge(run, tmp_path / "merged")
    alone = auto.from_pretrained(folder, dtype=torch.float32)
    vocabulary = alone.config.vocab_size
    torch.testing.assert_close(logits(load_adapters(run), vocabulary), logits(alone, vocabulary), rtol=1e-4, atol=1e-5)
    assert transformers.AutoTokenizer.from_pretrained(folder)("text")["input_ids"]
    with pytest.raises(InputError, match="already exists; choose another folder"):
        merge(run, folder)


def test_conv1d_weights_are_merged_the_right_way_round(tiny_gpt2, tmp_path):
    from trainer import apply_plan
    from trainer.adapters.merge import merged

    torch.manual_seed(0)
    plan = planner.allocate(budget="3000", strategy="uniform", max_experts=1, model=spectra.open_checkpoint(tiny_gpt2))
    model = apply_plan(transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32), plan)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, std=0.1)
    before = logits(model, model.config.vocab_size)
    torch.testing.assert_close(logits(merged(model), model.config.vocab_size), before, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_changed_tensor_is_noticed_by_its_logits(stock_run, tmp_path):
    copy = shutil.copytree(stock_run, tmp_path / "copy")
    tensors = load_file(copy / WEIGHTS)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    tensors[name] = tensors[name] + torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(InputError, match="the loaded model's logits differ by"):
        load_adapters(copy)
    tensors[name] = tensors[name] * torch.nan
    save_file(tensors, copy / WEIGHTS)
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        load_adapters(copy)


def test_noting_logits_leaves_the_model_as_it_was(language_run):
    model = load_adapters(language_run).train()
    one, other = reference_logits(model), reference_logits(model)
    assert one == other
    assert model.training
