"""Experts that start from the weight's own singular vectors."""

import peft
import pytest
import torch
import transformers
from torch import nn

from tests.trainer.examples import SHORT, logits, uniform
from trainer import MixtureLinear, load_adapters, merge, train
from trainer.initializers.svd import RHO, svd
from trainer.layers.offset import subtract_start


@torch.no_grad()
def started(base, ranks, scaling):
    layer = MixtureLinear(base, ranks, len(ranks), scaling=scaling)
    svd(layer)
    return layer


def test_experts_are_segments_of_the_singular_vectors():
    torch.manual_seed(0)
    base = nn.Linear(12, 9).double()
    layer = started(base, [2, 3], [0.5, 2.0])
    U, S, Vh = torch.linalg.svd(base.weight.detach(), full_matrices=False)
    for (first, rank), scaling, A, B in zip(
        ((0, 2), (4, 3)), (0.5, 2.0), layer.A.detach().split([2, 3]), layer.B.detach().split([2, 3], dim=1), strict=True
    ):
        segment = slice(first, first + rank)
        torch.testing.assert_close(scaling * RHO * B @ A, U[:, segment] * S[segment] @ Vh[segment])
        torch.testing.assert_close(B.norm(dim=0), A.norm(dim=1))  # half of every singular value on each side


def test_the_last_segment_may_overlap_its_neighbours():
    layer = started(nn.Linear(6, 6).double(), [1, 5], [1.0, 1.0])
    assert torch.linalg.matrix_rank(layer.A.detach()[1:]) == 5


def test_one_expert_starts_exactly_at_the_base():
    torch.manual_seed(0)
    base = nn.Linear(12, 9).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    before = base(x)
    layer = started(base, [4], 1.7)
    subtract_start(layer, "site")
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    assert layer.B.abs().max() > 0
    singular = torch.linalg.svdvals(1.7 * (layer.B @ layer.A).detach())[:4]
    original = torch.linalg.svdvals((base.weight + 1.7 * layer.B @ layer.A).detach())
    torch.testing.assert_close(singular, original[:4] / 10)


def test_experts_take_different_segments_and_are_the_base_at_even_gates():
    torch.manual_seed(0)
    base = nn.Linear(12, 8).double()
    weight = base.weight.detach().clone()
    layer = started(base, [2, 2], [0.5, 1.5])
    subtract_start(layer, "site")
    nn.init.zeros_(layer.router)
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, base.bias), rtol=1e-12, atol=1e-12)
    one, other = layer.A.detach().split(2)
    torch.testing.assert_close(one @ other.T, torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.training
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("experts", [1, 2])
def test_a_run_comes_back(tiny_llama, sentences, tmp_path, experts):
    plan = uniform(tiny_llama, "6000", max_experts=experts, expert_rank=2 // experts)
    train(plan, tiny_llama, sentences, tmp_path / "run", SHORT.model_copy(update={"learning_rate": 1e-3, "init": "svd"}))
    ours = logits(load_adapters(tmp_path / "run"))
    original = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    assert (ours - logits(original)).abs().max() > 1e-4
    if experts == 1:
        theirs = peft.PeftModel.from_pretrained(original, tmp_path / "run")
        torch.testing.assert_close(ours, logits(theirs), rtol=1e-4, atol=1e-4)
        alone = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"))
        torch.testing.assert_close(ours, logits(alone), rtol=1e-4, atol=1e-4)
