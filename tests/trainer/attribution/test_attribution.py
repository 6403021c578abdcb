"""Which adapters bring what a run gained, against finite differences and integrals that are known."""

import math

import pytest
import torch
from torch import nn

from planner.modules.labelled import example_losses
from planner.sensitivity.report import COMPLETE
from tests import models
from tests.reference.attribution import reference_attribution
from tests.trainer.examples import uniform
from trainer import apply_plan
from trainer.attribution.attribution import MOST, POINTS, AdapterScale, _completed, adapter_scales, attribute, scaled
from trainer.layers.expert_lora import expert_loras
from trainer.layers.mixture import mixtures

# Small enough that finite differences of every site are quick.
SMALL = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
FAMILIES = {"llama": SMALL, "olmoe": SMALL | {"num_experts": 3}}


def trained(family, folder):
    """A model in double precision with random adapters everywhere, as after some training."""
    model = models.build(family, **FAMILIES[family]).double()
    model.save_pretrained(folder)
    apply_plan(model, uniform(folder, "rank 2", max_experts=1))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def columns_of(model):
    """Each site's own part of B, in the order of `adapter_scales`."""
    found = [mixture.B.data for mixture in mixtures(model).values()]
    for lora in expert_loras(model).values():
        found += [lora.B[part].data[expert] for part, ranks in lora.ranks.items() for expert in range(len(ranks))]
    return found


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(1)  # one whose routers do not change their mind within a finite difference
    ids = [torch.randint(3, 40, (2, 7), generator=generator) for _ in range(2)]
    return [{"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows} for rows in ids]


@pytest.mark.parametrize(("family", "most"), [("llama", MOST), ("olmoe", POINTS)])  # at more points a router does change its mind
def test_the_loss_reduction_is_attributed_as_finite_differences_say(family, most, sample, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.attribution.attribution.MOST", most)
    model = trained(family, tmp_path)
    found = attribute(model, adapter_scales(model), sample)

    def losses():
        inputs = [{key: value for key, value in batch.items() if key != "labels"} for batch in sample]
        each = [example_losses(model(**one).logits, batch["labels"]).mean() for one, batch in zip(inputs, sample, strict=True)]
        return torch.stack(each)

    shares, gap, points = reference_attribution(columns_of(model), losses, most=most)
    torch.testing.assert_close(found.shares, shares, rtol=1e-3, atol=2e-6)  # norms are computed in float32
    assert (found.gap, found.points) == (pytest.approx(gap, abs=1e-3), points)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shares_add_up_to_what_the_adapters_take_off(family, sample, tmp_path):
    model = trained(family, tmp_path)

    def loss():
        return sum(example_losses(model(batch["input_ids"]).logits, batch["labels"]).mean() for batch in sample) / len(sample)

    after = loss()
    found = attribute(model, adapter_scales(model), sample)
    assert float(loss()) == float(after), "left as it was found"
    for column in columns_of(model):
        column.zero_()
    torch.testing.assert_close(found.shares.mean(0).sum(), loss() - after)


@pytest.mark.parametrize("size", [0.0, 0.01])
@torch.no_grad()
def test_a_few_points_suffice_where_the_way_is_straight(size, sample, tmp_path):
    model = trained("llama", tmp_path)
    for column in columns_of(model):
        column.mul_(size)
    found = attribute(model, adapter_scales(model), sample)
    assert found.points == POINTS
    assert found.gap < 0.02
    assert bool(found.shares.any()) is bool(size)


def test_what_is_missed_is_shared_out_by_size_and_adapters_that_do_nothing_get_nothing():
    shares = torch.tensor([[0.0, 0.0], [1.0, -3.0]], dtype=torch.float64)
    found = _completed(shares, torch.tensor([0.0, 4.0], dtype=torch.float64))
    assert found.tolist() == [[0, 0], [2, 0]]


@pytest.fixture
def along(monkeypatch):
    """Attribute a loss of two scales to them, for batches that multiply it."""

    def measure(loss, sizes=(1.0,), progress=None):
        owners = nn.ModuleList(nn.Module() for _ in range(2))
        for owner in owners:
            owner.register_buffer("scaling", torch.ones(1, dtype=torch.float64))
            owner.register_parameter("weight", nn.Parameter(torch.empty(0)))
        at = lambda batch: batch * loss(*(owner.scaling.squeeze() for owner in owners))  # noqa: E731
        monkeypatch.setattr("trainer.attribution.attribution._loss", lambda _model, batch, _device: at(batch))
        found = [AdapterScale(owner, "scaling", owner.scaling, (name,)) for owner, name in zip(owners, "ab", strict=True)]
        return attribute(owners, found, [torch.tensor(size, dtype=torch.float64) for size in sizes], progress)

    return measure


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda a, b: 5 - 2 * a - b, [2, 1]),
        (lambda a, b: 5 + a - b, [-1, 1]),
        (lambda a, b: 5 - a * b, [1 / 2, 1 / 2]),
        (lambda a, b: 5 - a**5 * b, [5 / 6, 1 / 6]),  # slopes of the fifth degree are the last that three points get right
    ],
)
def test_what_three_points_integrate_exactly_takes_no_more(along, loss, expected):
    found = along(loss, (1.0, 3.0))
    torch.testing.assert_close(found.shares, torch.tensor([[1.0], [3.0]]).double() * torch.tensor(expected).double())
    assert found.points == POINTS
    assert found.gap < 1e-12 or sum(expected) == 0


STEEP = pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda a, b: torch.exp(-40 * a) + (1 - b) ** 2, [1, 1]),
        (lambda a, b: -torch.sigmoid(200 * (a - 0.7)) - b, [1, 1]),
    ],
    ids=["in the first twentieth of the way", "in a fiftieth in the middle"],
)


@STEEP
def test_points_are_added_where_the_loss_falls_steeply_until_little_is_missed(along, loss, expected, monkeypatch):
    seen = []
    found = along(loss, progress=seen.append)
    assert found.gap <= COMPLETE
    assert POINTS < found.points < MOST
    assert seen == list(range(POINTS, found.points + 1, POINTS))
    torch.testing.assert_close(found.shares, torch.tensor([expected]).double(), rtol=0, atol=COMPLETE * sum(expected))
    monkeypatch.setattr("trainer.attribution.attribution.MOST", found.points - 1)
    fewer = along(loss)
    assert fewer.points == found.points - 2 * POINTS  # halving one more part would have taken too many
    assert fewer.gap > COMPLETE


@STEEP
def test_parts_bring_the_shares_nearer_to_the_integral_than_one_share_out_of_all_that_is_missed(
    along, loss, expected, monkeypatch
):
    found = along(loss)
    monkeypatch.setattr("trainer.attribution.attribution.MOST", POINTS)
    once = along(loss)
    errors = [(one.shares - torch.tensor([expected])).abs().max() for one in (found, once)]
    assert errors[0] < errors[1] / 4
    torch.testing.assert_close(found.shares.sum(), once.shares.sum())


def test_a_jump_belongs_to_no_module_and_ends_the_search_with_its_share_stated(along):
    found = along(lambda a, b: 3.0 * (a.detach() < 1 / 3) - b)  # of four in all three are a jump
    assert found.points == MOST == 39
    assert found.gap == pytest.approx(0.75)
    assert found.shares.sum() == pytest.approx(4.0)


def test_what_parts_miss_does_not_cancel(along):
    there_and_back = [(0.2, 1.0), (0.6, -0.9)]
    found = along(lambda a, b: sum(size * (a.detach() < at) for at, size in there_and_back) - b)
    assert found.gap == pytest.approx(1.9 / 1.1)


def test_a_loss_that_is_not_finite_ends_at_once(along):
    found = along(lambda a, b: a * math.nan - b)
    assert found.points == POINTS
    assert math.isnan(found.gap)
    assert found.shares.isnan().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_is_scaled_and_put_back(family, sample, tmp_path):
    model = trained(family, tmp_path)
    found = adapter_scales(model)
    named = [site for scale in found for site in scale.sites]
    assert sorted(named) == sorted(site.name for site in uniform(tmp_path, "rank 2", max_experts=1).sites)
    base = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
    ids = sample[0]["input_ids"]
    with torch.no_grad():
        full = model(ids).logits
        with scaled(found, 0.0) as leaves:
            none = model(ids).logits
        assert [len(leaf) for leaf in leaves] == [len(scale.sites) for scale in found]
        with scaled(found, 1.0):
            torch.testing.assert_close(model(ids).logits, full)
        with pytest.raises(RuntimeError), scaled(found, 0.5):
            raise RuntimeError
        assert torch.equal(model(ids).logits, full)
        for column in columns_of(model):
            column.zero_()
        torch.testing.assert_close(model(ids).logits, none)
    assert all(parameter is base[name] for name, parameter in model.named_parameters() if name in base)


def test_attribution_is_told_point_by_point_and_leaves_the_model_frozen(sample, tmp_path):
    model, seen = trained("llama", tmp_path), []
    found = attribute(model.train(), adapter_scales(model), sample, seen.append)
    assert seen == list(range(POINTS, found.points + 1, POINTS))
    assert (tuple(found.shares.shape), found.shares.dtype) == ((2, 14), torch.float64)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(mixture.scaling.grad_fn is None for mixture in mixtures(model).values())
