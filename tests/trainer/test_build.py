import math

import pytest
import torch
import transformers

from spectra import InputError, open_checkpoint
from trainer import MixtureLinear, apply_plan
from trainer.base_model import head, load_model
from trainer.layers.inject import lora_alpha_of, mixtures


@pytest.fixture
def encoder(minilm):
    return transformers.AutoModel.from_pretrained(minilm)


def test_exactly_the_planned_parameters_are_trainable(encoder, uniform_plan):
    built = apply_plan(encoder, uniform_plan)
    assert built is encoder
    assert sum(parameter.numel() for parameter in built.parameters() if parameter.requires_grad) == uniform_plan.parameters
    found = mixtures(built)
    assert list(found) == [site.name for site in sorted(uniform_plan.sites, key=lambda site: list(found).index(site.name))]
    for site in uniform_plan.sites:
        assert found[site.name].ranks == site.ranks
        assert found[site.name].top_k == site.top_k


def test_a_new_model_computes_what_its_base_does(encoder, uniform_plan):
    ids = torch.randint(1000, 2000, (2, 12))
    with torch.inference_mode():
        before = encoder.eval()(input_ids=ids).last_hidden_state
        after = apply_plan(encoder, uniform_plan)(input_ids=ids).last_hidden_state
    assert torch.equal(before, after)


def test_even_plans_scale_by_the_root_of_their_rank_and_uneven_ones_let_all_modules_learn_at_one_pace(encoder, uniform_plan):
    scalings = {scaling for layer in mixtures(apply_plan(encoder, uniform_plan)).values() for scaling in layer.scalings}
    assert scalings == {4 / math.sqrt(rank) for site in uniform_plan.sites for rank in site.ranks}
    sites = tuple(
        site.model_copy(update={"ranks": (1 + position % 5,), "top_k": 1}) for position, site in enumerate(uniform_plan.sites)
    )
    uneven = uniform_plan.model_copy(update={"sites": sites})
    mean = sum(rank for site in sites for rank in site.ranks) / len(sites)
    assert lora_alpha_of(uneven, 4.0) == pytest.approx(4 * math.sqrt(mean))


def test_names_are_found_behind_the_prefix_of_a_task_head(minilm, uniform_plan):
    model = load_model(open_checkpoint(minilm), "classification", ("a", "b"), seed=0)
    apply_plan(model, uniform_plan)
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, MixtureLinear)
    assert sorted(head(model)) == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "encoder.layer.9.output.dense"}, "'encoder.layer.9.output.dense': no such module in BertModel"),
        ({"name": "encoder.layer.0.attention"}, "a BertAttention in BertModel, not a linear layer"),
        ({"shape": (384, 383)}, r"planned for shape \[384, 383\], found \[384, 384\]"),
    ],
)
def test_a_site_that_does_not_fit_is_named_and_nothing_is_touched(encoder, uniform_plan, change, message):
    sites = (*uniform_plan.sites[1:], uniform_plan.sites[0].model_copy(update=change))
    with pytest.raises(InputError, match=message):
        apply_plan(encoder, uniform_plan.model_copy(update={"sites": sites}))
    assert mixtures(encoder) == {}
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_a_plan_is_not_applied_twice(encoder, uniform_plan):
    with pytest.raises(InputError, match="a MixtureLinear in BertModel, not a linear layer"):
        apply_plan(apply_plan(encoder, uniform_plan), uniform_plan)
