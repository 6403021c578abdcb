"""Which adapters bring what a run gained, against finite differences."""

import pytest
import torch

from planner.modules.labelled import example_losses
from tests import models
from tests.reference.attribution import reference_attribution
from tests.trainer.examples import uniform
from trainer import apply_plan
from trainer.attribution.attribution import POINTS, _completed, adapter_scales, attribute, scaled
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_reduction_is_attributed_as_finite_differences_say(family, sample, tmp_path):
    model = trained(family, tmp_path)
    shares = attribute(model, adapter_scales(model), sample)
    for row, batch in enumerate(sample):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        expected = reference_attribution(
            columns_of(model),
            lambda inputs=inputs, batch=batch: example_losses(model(**inputs).logits, batch["labels"]).mean(),
        )
        torch.testing.assert_close(shares[row], expected, rtol=1e-3, atol=2e-6)  # norms are computed in float32


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shares_add_up_to_what_the_adapters_take_off(family, sample, tmp_path):
    model = trained(family, tmp_path)

    def loss():
        return sum(example_losses(model(batch["input_ids"]).logits, batch["labels"]).mean() for batch in sample) / len(sample)

    after = loss()
    shares = attribute(model, adapter_scales(model), sample)
    assert float(loss()) == float(after), "left as it was found"
    for column in columns_of(model):
        column.zero_()
    torch.testing.assert_close(shares.mean(0).sum(), loss() - after)


@torch.no_grad()
def test_a_few_points_suffice_where_the_way_is_straight(sample, tmp_path, monkeypatch):
    model = trained("llama", tmp_path)
    for column in columns_of(model):
        column.mul_(0.01)
    monkeypatch.setattr("trainer.attribution.attribution._completed", lambda shares, sums: torch.stack([shares.sum(1), sums]))
    sums, known = attribute(model, adapter_scales(model), sample)
    torch.testing.assert_close(sums, known, rtol=0.02, atol=1e-6)


def test_adapters_that_do_nothing_share_nothing():
    shares = torch.tensor([[0.0, 0.0], [1.0, -3.0]], dtype=torch.float64)
    found = _completed(shares, torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert found.tolist() == [[0, 0], [2, 0]]


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
    shares = attribute(model.train(), adapter_scales(model), sample, seen.append)
    assert seen == list(range(1, POINTS + 1))
    assert (tuple(shares.shape), shares.dtype) == ((2, 14), torch.float64)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(mixture.scaling.grad_fn is None for mixture in mixtures(model).values())
