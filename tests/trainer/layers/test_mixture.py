"""MixtureLinear against a loop over experts, and what it refuses."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectra import InputError
from tests.reference.mixture import reference_mixture
from trainer import MixtureLinear, MixtureSettings
from trainer.layers.mixture import mixtures, scaling_columns
from trainer.layers.router_state import RouterState
from trainer.routers import ROUTERS


def random_mixture(ranks, top_k, d_in=7, d_out=5, seed=0, scaling=None):
    torch.manual_seed(seed)
    base = nn.Linear(d_in, d_out).double()
    layer = MixtureLinear(base, ranks, top_k, scaling or [0.5 + expert for expert in range(len(ranks))])
    nn.init.normal_(layer.B)
    return layer


def experts(layer):
    """Leaf copies of every expert's A and B, and of the router."""
    A = [part.detach().clone().requires_grad_() for part in layer.A.split(list(layer.ranks))]
    B = [part.detach().clone().requires_grad_() for part in layer.B.split(list(layer.ranks), dim=1)]
    router = None if layer.router is None else layer.router.detach().clone().requires_grad_()
    return A, B, router


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.data())
def test_values_and_gradients_equal_the_loop_over_experts(ranks, data):
    top_k = data.draw(st.integers(1, len(ranks)))
    leading = data.draw(st.sampled_from([(3,), (2, 4), ()]))
    layer = random_mixture(ranks, top_k, seed=data.draw(st.integers(0, 99)))
    x = torch.randn(*leading, 7, dtype=torch.float64)
    ours_x, reference_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    A, B, router = experts(layer)
    base = copy.deepcopy(layer.base)
    ours = layer(ours_x)
    reference = reference_mixture(reference_x, base, A, B, router, top_k, [0.5 + expert for expert in range(len(ranks))])
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(ours, reference, **close)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (reference * weights).sum().backward()
    torch.testing.assert_close(ours_x.grad, reference_x.grad, **close)
    if sum(ranks):
        torch.testing.assert_close(layer.A.grad, torch.cat([part.grad for part in A]), **close)
        torch.testing.assert_close(layer.B.grad, torch.cat([part.grad for part in B], dim=1), **close)
        if router is not None:
            torch.testing.assert_close(layer.router.grad, router.grad, **close)


@pytest.mark.parametrize("ranks", [[4], [2, 1], [1, 0, 3, 2], [0, 0], []])
@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, True), (torch.float64, True), (torch.bfloat16, False)])
def test_a_new_mixture_is_bit_identical_to_its_base(ranks, dtype, bias):
    base = nn.Linear(16, 8, bias=bias).to(dtype)
    layer = MixtureLinear(base, ranks, top_k=1)
    x = torch.randn(5, 16, dtype=dtype)
    assert torch.equal(layer(x), base(x))
    assert layer(x).dtype == dtype


def test_a_bias_in_half_precision_is_one_rounding_more():
    base = nn.Linear(16, 8).bfloat16()
    x = torch.randn(5, 16).bfloat16()
    torch.testing.assert_close(MixtureLinear(base, [2], top_k=1)(x), base(x), rtol=2**-7, atol=2**-8)


def test_the_base_is_frozen_and_one_expert_has_no_router():
    layer = MixtureLinear(nn.Linear(6, 4), [3], top_k=1)
    assert [name for name, parameter in layer.named_parameters() if parameter.requires_grad] == ["A", "B"]
    assert layer.router is None
    assert (tuple(layer.A.shape), tuple(layer.B.shape)) == ((3, 6), (4, 3))
    assert tuple(MixtureLinear(nn.Linear(6, 4), [3, 1], top_k=1).router.shape) == (2, 6)


def test_one_scaling_stands_for_all():
    one, many = random_mixture([2, 3], 1, scaling=1.5), random_mixture([2, 3], 1, scaling=[1.5, 1.5])
    x = torch.randn(4, 7, dtype=torch.float64)
    assert torch.equal(one(x), many(x))


def test_derived_buffers_are_not_part_of_the_state():
    assert sorted(random_mixture([2, 3], 1).state_dict()) == ["A", "B", "base.bias", "base.weight", "router"]


def test_half_precision_bases_keep_adapters_and_routing_in_float32():
    layer = MixtureLinear(nn.Linear(8, 8).bfloat16(), [2, 2], top_k=1)
    assert layer.A.dtype == layer.router.dtype == torch.float32
    seen = []
    layer.gates = lambda logits: seen.append(logits) or MixtureLinear.gates(layer, logits)
    x = torch.randn(64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(seen[0], x @ layer.router.T)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": [-1]}, "rank -1 in"),
        ({"ranks": [1, 1], "top_k": 3}, "top_k 3 does not fit 2 experts"),
        ({"ranks": [1, 1], "top_k": 0}, "top_k 0 does not fit"),
        ({"ranks": [1, 1], "scaling": [1.0]}, "1 scalings for 2 experts"),
        ({"ranks": [1], "settings": MixtureSettings(), "state": RouterState(MixtureSettings())}, "give one of the two"),
        ({"base": nn.LayerNorm(4), "ranks": [1]}, "a LayerNorm is no linear layer"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        MixtureLinear(**({"base": nn.Linear(4, 4), "top_k": 1} | arguments))


@pytest.mark.parametrize("precision", ["4 bits", "8 bits"])
def test_a_quantised_base_takes_a_mixture(precision):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    dense = nn.Linear(64, 32, bias=False)
    if precision == "4 bits":
        base = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    else:
        base = bitsandbytes.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False)
    base.load_state_dict(dense.state_dict())
    base = base.to("cpu")
    layer = MixtureLinear(base, [2, 3], top_k=1)
    x = torch.randn(5, 64, requires_grad=True)
    try:
        before = base(x)
    except (RuntimeError, NotImplementedError) as error:  # older releases have no such kernel for processors
        pytest.skip(f"bitsandbytes cannot multiply here: {error}")
    torch.testing.assert_close(layer(x), before)
    nn.init.normal_(layer.B)
    layer(x).square().sum().backward()
    assert layer.A.grad.abs().sum() > 0
    assert [name for name, parameter in layer.named_parameters() if parameter.requires_grad] == ["A", "B", "router"]


def test_scalings_stand_in_the_columns_of_their_expert():
    like = torch.empty(0, dtype=torch.float64)
    assert scaling_columns([2, 0, 1], [0.5, 9.0, 3.0], like).tolist() == [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 3.0]]
    assert tuple(scaling_columns([], [], like).shape) == (0, 0)
    layer = random_mixture([2, 1], 1, scaling=[0.5, 3.0])
    assert torch.equal(layer.scaling, scaling_columns(layer.ranks, layer.scalings, like))


def test_scaling_a_layers_buffer_scales_what_it_adds():
    layer = random_mixture([2, 3], 1)
    x = torch.randn(4, 7, dtype=torch.float64)
    added = layer(x) - layer.base(x)
    layer.scaling = layer.scaling * 0.25
    torch.testing.assert_close(layer(x) - layer.base(x), added / 4)


def test_the_weight_that_one_expert_adds():
    layer = random_mixture([3], 1, scaling=1.5)
    x = torch.randn(4, 7, dtype=torch.float64)
    assert layer.delta_weight().dtype == torch.float64
    torch.testing.assert_close(nn.functional.linear(x, layer.base.weight + layer.delta_weight(), layer.base.bias), layer(x))
    with pytest.raises(InputError, match="site 'q' has a router: a mixture cannot be folded into one weight"):
        MixtureLinear(nn.Linear(4, 4), [1, 1], 1, site="q").delta_weight()


def test_adapters_start_as_lora_does():
    torch.manual_seed(0)
    layer = MixtureLinear(nn.Linear(100, 8), [40, 2], 1)
    for drawn in (layer.A, layer.router):
        assert 0.9 / math.sqrt(100) < drawn.abs().max() <= 1 / math.sqrt(100)
    assert not layer.B.any()


def seeded(ranks, seed=5, site="layers.0.q"):
    return MixtureLinear(nn.Linear(7, 5), ranks, 1, seed=seed, site=site)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_of_one_seed_every_experts_first_rows_are_the_same_whatever_its_rank_and_the_others(one, other):
    layers = [seeded(ranks) for ranks in (one, other)]
    for expert, ranks in enumerate(zip(one, other, strict=False)):
        rows = [layer.A.split(list(layer.ranks))[expert][: min(ranks)] for layer in layers]
        assert torch.equal(*rows)
    if min(map(len, (one, other))) > 1:
        both = min(map(len, (one, other)))
        assert torch.equal(*(layer.router[:both] for layer in layers))


def test_seeds_sites_experts_and_routers_draw_numbers_of_their_own():
    layers = [seeded([2, 2]), seeded([2, 2], seed=6), seeded([2, 2], site="layers.1.q")]
    rows = [row for layer in layers for row in (*layer.A, *layer.router)]
    assert len({tuple(row.tolist()) for row in rows}) == 3 * (4 + 2)


def test_starting_over_draws_the_numbers_of_the_seed_again_and_clears_b():
    layer = seeded([3, 1])
    A, router = layer.A.detach().clone(), layer.router.detach().clone()
    for parameter in (layer.A, layer.B, layer.router):
        nn.init.normal_(parameter)
    before = torch.get_rng_state()
    layer.reset_parameters(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layer.A, A)
    assert torch.equal(layer.router, router)
    assert not layer.B.any()
    layer.reset_parameters()
    assert not torch.equal(torch.get_rng_state(), before)


def test_settings_are_its_own_or_those_that_it_shares():
    own = MixtureLinear(nn.Linear(4, 4), [1, 1], 1, settings=MixtureSettings(router="dense", dropout=0.25))
    shared = MixtureLinear(nn.Linear(4, 4), [1, 1], 1, state=RouterState(MixtureSettings(router="constant")))
    usual = MixtureLinear(nn.Linear(4, 4), [1, 1], 1)
    assert [layer.settings.router.name for layer in (own, shared, usual)] == ["dense", "constant", "topk"]
    assert "ranks=[1, 1], top_k=1, router=dense" in repr(own)
    assert "router=None" in repr(MixtureLinear(nn.Linear(4, 4), [1], 1))


def test_the_mixtures_of_a_model_are_found_by_name():
    model = nn.ModuleDict({"a": nn.ModuleDict({"q": MixtureLinear(nn.Linear(4, 4), [1], 1)}), "b": nn.Linear(4, 4)})
    assert mixtures(model) == {"a.q": model["a"]["q"]}


def test_dropout_acts_on_the_experts_input_in_training_only():
    state = RouterState(MixtureSettings(dropout=0.5))
    layer = MixtureLinear(nn.Linear(64, 4), [4, 4], 1, state=state)
    nn.init.normal_(layer.B)
    x = torch.randn(3, 64)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch's compiler does itself
@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_mixtures_compile_without_a_graph_break(router):
    layer = MixtureLinear(nn.Linear(16, 8), [2, 3, 1], 2, settings=MixtureSettings(router=router))
    nn.init.normal_(layer.B)
    x = torch.randn(4, 5, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x) if router != "sira" else compiled.eval()(x), layer.eval()(x))


@pytest.mark.gpu
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("router", ROUTERS)
def test_the_gpu_agrees_with_the_cpu(router, top_k):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    base = nn.Linear(96, 80)
    layer = MixtureLinear(base, (3, 0, 8, 5), top_k, settings=MixtureSettings(router=router))
    nn.init.normal_(layer.B)
    layer.eval()  # no expert dropout, whose draws differ between the devices
    other = copy.deepcopy(layer).cuda()
    x, weights = torch.randn(2, 33, 96), torch.randn(2, 33, 80)
    found = []
    for module, device in ((layer, "cpu"), (other, "cuda")):
        given = x.to(device).detach().requires_grad_()
        y = module(given)
        (y * weights.to(device)).sum().backward()
        found.append([y, given.grad, *(one.grad for one in (module.A, module.B, module.router))])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-4, atol=1e-4)
