"""Experts that start from the weight's own singular vectors."""

import tempfile

import peft
import pytest
import torch
import transformers
from torch import nn

import planner
import spectra
from spectra import InputError
from tests.models import CONFIGS
from trainer import MixtureLinear, TrainSettings, apply_plan, load_adapters, merge, train
from trainer.initializers.svd import start_from_svd
from trainer.settings import MixtureSettings

SHORT = TrainSettings(max_steps=6, batch_size=8, max_length=32, learning_rate=1e-3, precision="fp32", init="svd")


def logits(model, vocabulary):
    ids = torch.arange(5, 29).reshape(2, 12) % vocabulary
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_one_expert_starts_exactly_at_the_base():
    torch.manual_seed(0)
    base = nn.Linear(12, 9).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    before = base(x)
    layer = MixtureLinear(base, [4], 1, scaling=1.7)
    start_from_svd(layer, "site")
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    assert layer.B.abs().max() > 0
    singular = torch.linalg.svdvals(1.7 * (layer.B @ layer.A).detach())[:4]
    original = torch.linalg.svdvals((base.weight + 1.7 * layer.B @ layer.A).detach())
    torch.testing.assert_close(singular, original[:4] / 10)


def test_experts_take_different_segments_and_are_the_base_at_even_gates():
    torch.manual_seed(0)
    base = nn.Linear(12, 8).double()
    weight = base.weight.detach().clone()
    layer = MixtureLinear(base, [2, 2], 2, scaling=[0.5, 1.5])
    start_from_svd(layer, "site")
    nn.init.zeros_(layer.router)
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, base.bias), rtol=1e-12, atol=1e-12)
    one, other = layer.A.detach().split(2)
    torch.testing.assert_close(one @ other.T, torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("experts", [1, 2])
def test_a_run_comes_back(tiny_llama, sentences, tmp_path, experts):
    plan = planner.allocate(
        budget="6000",
        strategy="uniform",
        max_experts=experts,
        expert_rank=2 // experts,
        model=spectra.open_checkpoint(tiny_llama),
    )
    train(plan, tiny_llama, sentences, tmp_path / "run", SHORT)
    model = load_adapters(tmp_path / "run")
    vocabulary = model.config.vocab_size
    ours = logits(model, vocabulary)
    original = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert (ours - logits(original, vocabulary)).abs().max() > 1e-4
    if experts == 1:
        theirs = peft.PeftModel.from_pretrained(original, tmp_path / "run")
        torch.testing.assert_close(ours, logits(theirs, vocabulary), rtol=1e-4, atol=1e-4)
        alone = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"))
        torch.testing.assert_close(ours, logits(alone, vocabulary), rtol=1e-4, atol=1e-4)


def test_singular_vectors_of_another_machine_are_settled(tiny_llama):
    from trainer.initializers.svd import settle

    plan = planner.allocate(budget="6000", strategy="uniform", max_experts=2, model=spectra.open_checkpoint(tiny_llama))
    make = lambda: apply_plan(  # noqa: E731
        transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), plan, MixtureSettings(init="svd")
    )
    layer = next(module for module in make().modules() if isinstance(module, MixtureLinear))
    weight = layer.base.weight.clone()
    settle(layer, -layer.A0, -layer.B0)  # flipped signs: the same product
    torch.testing.assert_close(layer.base.weight, weight)
    settle(layer, 2 * layer.A0, layer.B0)
    assert (layer.base.weight - weight).abs().max() > 1e-3


def test_growth_does_not_start_from_a_changed_base(tiny_llama, sentences, tmp_path):
    plan = planner.allocate(
        budget="30k", strategy="uniform", expert_rank=4, max_experts=3, max_rank=12, model=spectra.open_checkpoint(tiny_llama)
    )
    with pytest.raises(InputError, match="--grow starts experts over and so cannot follow --init svd"):
        train(plan, tiny_llama, sentences, tmp_path / "run", SHORT.model_copy(update={"grow": True, "max_steps": 30}))
    assert not (tmp_path / "run").exists()


def test_routed_experts_cannot_start_from_singular_vectors():
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["olmoe"]())
    model.save_pretrained(folder := tempfile.mkdtemp())
    plan = planner.allocate(budget="rank 2", strategy="uniform", model=spectra.open_checkpoint(folder))
    with pytest.raises(InputError, match=r"experts.0.down_proj': --init svd starts linear modules, and this is a routed expert"):
        apply_plan(model, plan, MixtureSettings(init="svd"))
    assert not any(isinstance(module, MixtureLinear) for module in model.modules())  # refused before anything was touched


def test_quantised_bases_are_refused():
    base = nn.Linear(4, 4)
    layer = MixtureLinear(base, [1], 1)
    base.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match="'site': --init svd needs an unquantised base"):
        start_from_svd(layer, "site")
