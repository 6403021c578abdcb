"""Surgery on layers that grow: room reserved, directions started, what was not earned cut off."""

import pytest
import torch
from torch import nn

from planner.modules.fused_experts import is_experts
from planner.strategies.growth import GrowthRule
from tests import models
from tests.trainer.examples import uniform, with_ranks
from trainer import MixtureLinear, MixtureSettings, apply_plan
from trainer.layers.expert_lora import ExpertLora, adapt
from trainer.layers.inject import router_state_of
from trainer.layers.router_state import RouterState
from trainer.settings import GrowthSettings
from trainer.training.growth_groups import MixtureGroup, RoutedGroup, growth_groups


def mixture(ranks=(4, 4, 4), scaling=2.0, state=None):
    torch.manual_seed(0)
    return MixtureLinear(nn.Linear(24, 20).double(), ranks, 2, scaling=scaling, state=state, site="site")


def routed(ranks, state=None):
    experts = next(module for module in models.build("olmoe").modules() if is_experts(module))
    lora = ExpertLora(experts, ranks, lora_alpha=4.0, state=state, name="layer")
    adapt(experts, lora)
    return experts, lora


def inputs():
    return torch.randn(6, 32), torch.stack([torch.randperm(4)[:2] for _ in range(6)]), torch.rand(6, 2)


def test_cutting_back_keeps_the_function():
    layer = mixture()
    group = MixtureGroup("site", layer, GrowthRule())
    assert (group.target, group.start, group.most, group.ranks) == (12, 2, 8, [2, 2, 2])
    group.grow_to((5, 2, 8))
    for expert, rank in enumerate(group.ranks):
        nn.init.normal_(layer.B.data[:, 8 * expert : 8 * expert + rank])
    x = torch.randn(6, 24, dtype=torch.float64)
    before = layer(x)
    group.finish(lora_alpha=3.0)
    assert layer.scalings == pytest.approx([3 / rank for rank in (5, 2, 8)])
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    assert tuple(layer.A.shape) == (15, 24)
    assert (layer.ranks, group.planned()) == ((5, 2, 8), {"site": (5, 2, 8)})
    assert tuple(layer.scaling.shape) == (3, 15)


def test_a_mixture_starts_over_with_room_and_one_scaling():
    layer = mixture(ranks=(2, 7, 3), scaling=[3.0, 6 / 7, 2.0])  # lora_alpha 6
    group = MixtureGroup("site", layer, GrowthRule())
    assert (layer.ranks, layer.scalings) == ((8, 8, 8), (1.5, 1.5, 1.5))  # 6 over the mean rank of 4
    rows = layer.A.detach().view(3, 8, 24)
    assert rows[:, :2].abs().amin() > 0
    assert not rows[:, 2:].any()
    assert not layer.B.any()
    group.grow_to([3, 2, 2])
    assert rows[0, 2].abs().sum() > 0
    assert not rows[0, 3:].any()
    assert not rows[1:, 2:].any()


def test_no_expert_grows_larger_than_its_matrix():
    assert MixtureGroup("site", mixture(ranks=(9, 9)), GrowthRule()).most == 10
    _, lora = routed({"up_proj": [14] * 4})
    assert (
        RoutedGroup("layer.loraplan", lora, GrowthRule()).most == 14
    )  # rank 14 of 24 x 32 has 784 of 768 parameters, and the plan has it


def test_new_directions_depend_on_the_generator_alone():
    drawn = []
    for seed in (0, 1):
        layer = mixture()
        group = MixtureGroup("site", layer, GrowthRule())
        torch.manual_seed(seed)
        group.grow_to([5, 4, 3], torch.Generator().manual_seed(7))
        drawn.append(layer.A.detach().view(3, 8, 24)[:, 2:].clone())
    assert torch.equal(*drawn)


def test_routed_experts_start_over_with_room_in_every_projection():
    _, lora = routed({"up_proj": [2, 7, 3, 4], "down_proj": [4, 4, 4, 4]})
    group = RoutedGroup("layers.0.experts.loraplan", lora, GrowthRule())
    assert (group.target, group.start, group.most, group.ranks) == (16, 2, 8, [2, 2, 2, 2])
    for part in ("up_proj", "down_proj"):
        assert lora.scaling(part).tolist() == [1.0] * 4  # lora_alpha 4 over the mean rank of 4
        assert lora.A[part].shape[1] == 8
        assert lora.A[part][:, :2].abs().amin() > 0
        assert not lora.A[part][:, 2:].any()
        assert not lora.B[part].any()
    group.grow_to([3, 2, 4, 2])
    assert lora.ranks == {"up_proj": [3, 2, 4, 2], "down_proj": [3, 2, 4, 2]}
    assert group.planned()["layers.0.experts.2.down_proj"] == (4,)
    assert len(group.planned()) == 8


def test_finished_experts_are_scaled_by_their_own_rank_and_compute_the_same():
    experts, lora = routed({"up_proj": [4] * 4, "down_proj": [4] * 4})
    group = RoutedGroup("layer.loraplan", lora, GrowthRule())
    group.grow_to([5, 2, 7, 2])
    for part in lora.ranks:
        for expert, rank in enumerate(group.ranks):
            nn.init.normal_(lora.B[part].data[expert, :, :rank])
    asked = inputs()
    before = experts(*asked)
    group.finish(lora_alpha=3.0)
    assert lora.scaling("up_proj").tolist() == pytest.approx([3 / 5, 3 / 2, 3 / 7, 3 / 2])
    torch.testing.assert_close(experts(*asked), before, rtol=1e-4, atol=1e-5)


def test_unequal_totals_are_refused():
    _, lora = routed({"up_proj": [4] * 4, "down_proj": [3] * 4})
    with pytest.raises(ValueError, match=r"projections have unequal total ranks, {'up_proj': 16, 'down_proj': 12}"):
        RoutedGroup("layer.loraplan", lora, GrowthRule())


FORMS = {
    "paper": lambda a, b: abs(a.sum()) * abs(b.sum()),
    "released": lambda a, b: abs(a.sum()) + abs(b.sum()),
    "absolute": lambda a, b: a.abs().sum() * b.abs().sum(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_pull_on_a_mixtures_directions_is_summed_over_each(form):
    layer = mixture(state=RouterState(MixtureSettings()))
    group = MixtureGroup("site", layer, GrowthRule())
    assert group.pulls(form) == {}  # no step yet
    nn.init.normal_(layer.B)
    layer(torch.randn(5, 24, dtype=torch.float64)).square().sum().backward()
    ((part, found),) = group.pulls(form).items()
    assert (part, tuple(found.shape)) == ("", (3, 8))
    with torch.no_grad():
        for expert in range(3):
            for direction in range(8):
                at = 8 * expert + direction
                expected = FORMS[form](layer.A[at] * layer.A.grad[at], layer.B[:, at] * layer.B.grad[:, at])
                assert float(found[expert, direction]) == pytest.approx(float(expected))


@pytest.mark.parametrize("form", FORMS)
def test_the_pull_on_routed_experts_is_that_of_each_projection(form):
    experts, lora = routed({"up_proj": [4] * 4, "down_proj": [4] * 4})
    group = RoutedGroup("layer.loraplan", lora, GrowthRule())
    assert group.pulls(form) == {}
    for part in lora.ranks:
        nn.init.normal_(lora.B[part])
    experts(*inputs()).square().sum().backward()
    found = group.pulls(form)
    assert found.keys() == {"up_proj", "down_proj"}
    with torch.no_grad():
        for part, pulls in found.items():
            A, B = lora.A[part], lora.B[part]
            for expert in range(4):
                for direction in range(A.shape[1]):
                    of_A = A[expert, direction] * A.grad[expert, direction]
                    of_B = B[expert, :, direction] * B.grad[expert, :, direction]
                    assert float(pulls[expert, direction]) == pytest.approx(float(FORMS[form](of_A, of_B)), rel=1e-4, abs=1e-9)


def test_usage_is_taken_from_the_shared_state():
    state = RouterState(MixtureSettings())
    _, lora = routed({"up_proj": [4] * 4}, state)
    groups = [MixtureGroup("model.q", mixture(state=state), GrowthRule()), RoutedGroup("layer.loraplan", lora, GrowthRule())]
    for name, group in zip(("site", "layer"), groups, strict=True):
        assert group.take_usage() is None
        state.add_usage(name, torch.ones(4))
        assert group.take_usage().tolist() == [1.0] * 4
        assert group.take_usage() is None
    assert MixtureGroup("alone", mixture(), GrowthRule()).take_usage() is None


def test_everything_that_can_grow_in_a_model_is_found_and_its_use_is_counted(tiny_olmoe, tiny_llama):
    model = apply_plan(models.build("olmoe"), uniform(tiny_olmoe, "rank 4", max_experts=1))
    assert not router_state_of(model).counting
    found = dict(growth_groups(model, GrowthSettings()))
    assert {name: type(group) for name, group in found.items()} == {
        f"model.layers.{layer}.mlp.experts.loraplan": RoutedGroup for layer in range(2)
    }  # the attention has one LoRA a module, among which there is nothing to share out
    assert router_state_of(model).counting
    dense = apply_plan(models.build("llama"), uniform(tiny_llama, "30k", expert_rank=4, max_experts=3, max_rank=12))
    found = dict(growth_groups(dense, GrowthSettings()))
    assert len(found) == 14
    assert {type(group) for group in found.values()} == {MixtureGroup}
    bare = with_ranks(uniform(tiny_llama, "rank 2"), lambda site: (2,))
    assert dict(growth_groups(apply_plan(models.build("llama"), bare), GrowthSettings())) == {}
