"""From a model and a plan to adapters: first everything is found or refused, then built."""

import math

import pytest
import torch
import transformers
from torch import nn

from spectra import InputError, open_checkpoint
from tests import models
from tests.trainer.examples import uniform, with_ranks
from trainer import MixtureLinear, MixtureSettings, apply_plan
from trainer.base_model import head, load_model
from trainer.layers.expert_lora import expert_loras
from trainer.layers.inject import inject, locate, lora_alpha_of, router_state_of, trainable_parameters
from trainer.layers.mixture import mixtures


@pytest.fixture
def encoder(minilm):
    return transformers.AutoModel.from_pretrained(minilm)


@pytest.fixture(scope="module")
def routed_plan(tiny_olmoe):
    return uniform(tiny_olmoe, "rank 2", max_experts=1)


def changed(plan, **change):
    """The plan with another first site, at the end."""
    sites = (*plan.sites[1:], plan.sites[0].model_copy(update=change))
    return plan.model_copy(update={"sites": sites})


def traces(model):
    """Everything that building adapters could change."""
    parameters = {name: (parameter, parameter._version, parameter.requires_grad) for name, parameter in model.named_parameters()}
    return parameters, dict(model.named_modules()), len(model._forward_pre_hooks), dict(model.named_buffers())


def assert_untouched(model, before):
    after = traces(model)
    assert after[1:3] == before[1:3]
    for one, other in ((after[0], before[0]), (after[3], before[3])):
        assert one.keys() == other.keys()
        assert all(one[name] is other[name] or one[name][1:] == other[name][1:] for name in one)


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
    sites = [
        site.model_copy(update={"ranks": (1 + position % 5,), "top_k": 1}) for position, site in enumerate(uniform_plan.sites)
    ]
    mean = sum(rank for site in sites for rank in site.ranks) / len(sites)
    assert lora_alpha_of(sites, 4.0) == pytest.approx(4 * math.sqrt(mean))
    nothing = [site.model_copy(update={"ranks": ()}) for site in sites]
    assert lora_alpha_of([*sites, *nothing], 4.0) == lora_alpha_of(sites, 4.0)
    assert lora_alpha_of(nothing, 4.0) == 0


def test_names_are_found_behind_the_prefix_of_a_task_head(minilm, uniform_plan):
    model = load_model(open_checkpoint(minilm), "classification", ("a", "b"), seed=0)
    apply_plan(model, uniform_plan)
    assert isinstance(model.bert.encoder.layer[0].attention.self.query, MixtureLinear)
    assert sorted(head(model)) == ["classifier.bias", "classifier.weight"]


def test_what_was_adapted_is_logged_in_one_line(tiny_llama, llama_plan, caplog):
    caplog.set_level("INFO", logger="loraplan")
    apply_plan(models.build("llama"), llama_plan)
    adapted = [site for site in llama_plan.sites if site.ranks]
    (record,) = [record for record in caplog.records if record.name == "loraplan"]
    assert record.message.startswith(f"adapted {len(adapted)} modules in 2 layers (")
    assert record.message.endswith(f"; {llama_plan.parameters:,} trainable parameters, as planned")
    assert "q x 2" in record.message or "q_proj x 2" in record.message


def test_only_the_main_process_says_what_was_adapted(tiny_llama, llama_plan, caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    caplog.set_level("INFO", logger="loraplan")
    apply_plan(models.build("llama"), llama_plan)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "encoder.layer.9.output.dense"}, "'encoder.layer.9.output.dense': no such module in BertModel"),
        ({"name": "encoder.layer.0.attention"}, "a BertAttention in BertModel, not a linear layer"),
        ({"shape": (384, 383)}, r"planned for shape \[384, 383\], found \[384, 384\]"),
    ],
)
@pytest.mark.parametrize("build", [apply_plan, locate])
def test_a_site_that_does_not_fit_is_named_and_nothing_is_touched(encoder, uniform_plan, change, message, build):
    before = traces(encoder)
    with pytest.raises(InputError, match=message):
        build(encoder, changed(uniform_plan, **change))
    assert mixtures(encoder) == {}
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert_untouched(encoder, before)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"ranks": (1, 1), "top_k": 1}, {}, "a routed expert takes one LoRA, not 2"),
        ({"shape": (9, 9)}, {}, r"planned for shape \[9, 9\], found \[\d+, \d+\]"),
        ({}, {"init": "svd"}, "`init` svd starts linear modules, and this is a routed expert"),
    ],
)
@pytest.mark.parametrize("build", [apply_plan, locate])
def test_what_routed_experts_cannot_take_is_refused_before_anything_is_touched(routed_plan, change, settings, message, build):
    model = models.build("olmoe")
    before = traces(model)
    routed = next(site for site in routed_plan.sites if site.routed)
    plan = routed_plan.model_copy(update={"sites": (routed, *(site for site in routed_plan.sites if site is not routed))})
    with pytest.raises(InputError, match=rf"site '[^']*experts\.0\.[a-z]+_proj': {message}"):
        build(model, changed(plan, **change), MixtureSettings(**settings))
    assert expert_loras(model) == {}
    assert mixtures(model) == {}
    assert_untouched(model, before)


def test_an_initialisation_from_the_weight_needs_an_unquantised_base(lora_plan):
    model = models.build("llama")
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, dtype=torch.uint8), requires_grad=False)
    before = traces(model)
    with pytest.raises(InputError, match=r"site 'model\.layers\.1\.mlp\.up_proj': `init` svd needs an unquantised base"):
        apply_plan(model, lora_plan, MixtureSettings(init="svd"))
    assert_untouched(model, before)
    assert len(locate(model, lora_plan)) == len(lora_plan.sites)  # a start at zero needs nothing of it


def test_a_plan_is_not_applied_twice(encoder, uniform_plan):
    with pytest.raises(InputError, match="a MixtureLinear in BertModel, not a linear layer"):
        apply_plan(apply_plan(encoder, uniform_plan), uniform_plan)


def test_locating_tells_linear_modules_from_routed_experts_and_changes_nothing(routed_plan):
    model = models.build("olmoe")
    before = traces(model)
    found = locate(model, routed_plan)
    assert_untouched(model, before)
    assert [placement.site for placement in found] == list(routed_plan.sites)
    for placement in found:
        if placement.site.routed:
            assert f"{placement.module}.{placement.expert}" == placement.site.name
            assert model.get_submodule(placement.module).down_proj.ndim == 3
        else:
            assert (placement.module, placement.expert) == (placement.site.name, None)
            assert isinstance(model.get_submodule(placement.module), nn.Linear)


def test_sites_that_get_nothing_are_checked_but_not_placed(lora_plan):
    model = models.build("llama")
    bare = lora_plan.without_adapters()
    assert locate(model, bare) == []
    with pytest.raises(InputError, match="no such module in LlamaForCausalLM"):
        locate(model, changed(bare, name="model.layers.0.nothing"))


def test_injecting_builds_what_was_located_and_freezes_the_rest(llama_plan):
    model = models.build("llama")
    settings = MixtureSettings(router="dense", alpha=2.0)
    inject(model, locate(model, llama_plan), settings)
    assert mixtures(model).keys() == {site.name for site in llama_plan.sites if site.ranks}
    assert trainable_parameters(model) == llama_plan.parameters
    state = router_state_of(model)
    assert state.settings == settings
    assert all(mixture.state is state and mixture.site == name for name, mixture in mixtures(model).items())
    scale = lora_alpha_of(list(llama_plan.sites), 2.0)
    assert all(mixture.scalings == tuple(scale / rank for rank in mixture.ranks) for mixture in mixtures(model).values())
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, attention_mask=torch.tensor([[1, 1, 0]]))
    assert state.token_mask.tolist() == [[True, True, False]]  # told before every pass


def test_routed_experts_share_the_models_state(routed_plan):
    model = apply_plan(models.build("olmoe"), routed_plan)
    loras = expert_loras(model)
    assert len(loras) == 2
    assert {lora.state for lora in loras.values()} == {router_state_of(model)}
    assert trainable_parameters(model) == routed_plan.parameters
    padded = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert padded > routed_plan.parameters  # padding is held, not planned


def test_a_model_without_mixtures_has_no_router_state():
    assert router_state_of(models.build("llama")) is None


def started(family, plan, seed=0):
    """Every adapted site's A, and the state of torch's own stream afterwards, with adapters put into a model after a seed."""
    model = models.build(family)
    torch.manual_seed(seed)
    apply_plan(model, plan)
    rows = {(name, "linear"): mixture.A.detach() for name, mixture in mixtures(model).items()}
    for name, lora in expert_loras(model).items():
        rows |= {
            (f"{name}.{at}", part): lora.A[part][at, :rank] for part, ranks in lora.ranks.items() for at, rank in enumerate(ranks)
        }
    return rows, torch.get_rng_state()


def assert_alike_as_far_as_shapes_allow(one, other, least):
    compared = 0
    for place in one.keys() & other.keys():
        rows = min(len(one[place]), len(other[place]))
        assert torch.equal(one[place][:rows], other[place][:rows]), place
        compared += rows > 0
    assert compared >= least


def test_the_first_expert_of_a_mixture_starts_as_plain_lora_does_whatever_else_is_in_the_model(tiny_llama, llama_plan, lora_plan):
    lora, of_mixtures = started("llama", lora_plan)[0], started("llama", llama_plan)[0]
    first = {(site.name, "linear"): site.ranks[0] for site in llama_plan.sites if site.ranks}
    assert any(len(site.ranks) > 1 for site in llama_plan.sites)
    assert_alike_as_far_as_shapes_allow(lora, {place: of_mixtures[place][:rank] for place, rank in first.items()}, 10)
    alternating = with_ranks(lora_plan, lambda site: () if ".layers.0." in site.name else (7,))
    assert_alike_as_far_as_shapes_allow(lora, started("llama", alternating)[0], 7)
    assert not torch.equal(*(started("llama", lora_plan, seed)[0]["model.layers.0.mlp.up_proj", "linear"] for seed in (0, 1)))


def test_routed_experts_start_alike_in_plans_of_other_ranks(routed_plan):
    uneven = with_ranks(routed_plan, lambda site: () if ".experts.2." in site.name or "q_proj" in site.name else (5,))
    assert_alike_as_far_as_shapes_allow(started("olmoe", routed_plan)[0], started("olmoe", uneven)[0], 2 * (3 * 3 + 3))


def test_one_number_is_drawn_from_torchs_own_stream_whatever_the_plan(lora_plan, llama_plan, routed_plan):
    torch.manual_seed(0)
    torch.randint(2**62, ())
    expected = torch.get_rng_state()
    for family, plan in [
        ("llama", lora_plan),
        ("llama", llama_plan),
        ("llama", lora_plan.without_adapters()),
        ("olmoe", routed_plan),
    ]:
        assert torch.equal(started(family, plan)[1], expected)
