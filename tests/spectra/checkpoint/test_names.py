import pytest

from spectra import InputError
from spectra.checkpoint.names import (
    expert_index,
    is_adaptable,
    live_name,
    parse_name,
    projection_type,
    resolve,
    short_name,
    sort_key,
)


@pytest.mark.parametrize(
    ("name", "stack", "layer", "projection"),
    [
        ("encoder.layer.11.attention.self.query", "encoder.layer", 11, "attention.self.query"),
        ("model.layers.0.self_attn.q_proj", "model.layers", 0, "self_attn.q_proj"),
        ("h.3.attn.c_attn", "h", 3, "attn.c_attn"),
        ("3.linear", "", 3, "linear"),
        ("model.layers.2.mlp.experts.7.up_proj", "model.layers", 2, "mlp.experts.7.up_proj"),
    ],
)
def test_a_name_says_stack_layer_and_projection(name, stack, layer, projection):
    found = parse_name(name)
    assert (found.stack, found.layer, found.projection) == (stack, layer, projection)


@pytest.mark.parametrize("name", ["lm_head", "embeddings.word_embeddings", "pooler.dense", "layer2x.dense", "model.layers.7"])
def test_no_place_outside_a_stack(name):
    assert parse_name(name) is None


def test_order_counts_layers_as_numbers():
    names = ["m.layers.10.a", "m.layers.9.b", "m.layers.9.a", "embed"]
    assert sorted(names, key=sort_key) == ["embed", "m.layers.9.a", "m.layers.9.b", "m.layers.10.a"]


def test_resolve_sees_through_prefixes_on_either_side():
    assert resolve(["layer.0.q"], ["bert.layer.0.q", "bert.layer.1.q"]) == {"layer.0.q": "bert.layer.0.q"}
    assert resolve(["bert.layer.0.q"], ["layer.0.q"]) == {"bert.layer.0.q": "layer.0.q"}
    assert resolve(["layer.0.q"], ["player.0.q"]) == {}


def test_resolve_prefers_the_exact_name():
    assert resolve(["a.q"], ["a.q", "b.a.q"]) == {"a.q": "a.q"}


def test_resolve_refuses_to_guess():
    with pytest.raises(InputError, match=r"'q' is ambiguous: it fits 'a.q' and 'b.q'"):
        resolve(["q"], ["a.q", "b.q"])
    with pytest.raises(InputError, match=r"'a\.q' is named twice"):
        resolve(["a.q", "x.a.q"], ["a.q"])


def test_short_drops_what_says_nothing():
    assert [short_name(name) for name in ("attention.self.query", "attention.output.dense", "self_attn.q_proj")] == [
        "query", "attention.output", "q_proj"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expert", "kind"),
    [
        ("model.layers.2.mlp.experts.7.up_proj", 7, "mlp.experts.*.up_proj"),
        ("model.layers.2.mlp.shared_experts.up_proj", None, "mlp.shared_experts.up_proj"),
        ("model.layers.2.self_attn.q_proj", None, "self_attn.q_proj"),
        ("lm_head", None, "lm_head"),
    ],
)
def test_routed_experts_are_of_one_type(name, expert, kind):
    assert (expert_index(name), projection_type(name)) == (expert, kind)


def test_mixtrals_names_are_those_of_its_live_model():
    assert live_name("layers.1.block_sparse_moe.experts.3.w2") == "layers.1.mlp.experts.3.down_proj"
    assert live_name("layers.1.block_sparse_moe.experts.3.w1") == "layers.1.mlp.experts.3.gate_proj"
    assert live_name("layers.1.mlp.experts.3.up_proj") == "layers.1.mlp.experts.3.up_proj"
    assert live_name("layers.1.w2") == "layers.1.w2"  # no expert: another model's own name
    stored, live = "m.layers.1.block_sparse_moe.experts.3.w3", "m.layers.1.mlp.experts.3.up_proj"
    assert resolve([live], [stored]) == {live: stored}


@pytest.mark.parametrize(
    ("name", "adaptable"),
    [("layers.0.q_proj", True), ("layers.0.mlp.gate", False), ("layers.0.input_layernorm", False), ("lm_head", False)],
)
def test_what_is_adapted_is_a_projection_inside_a_layer(name, adaptable):
    assert is_adaptable(name) is adaptable


def test_experts_are_sorted_as_numbers():
    names = [f"layers.0.mlp.experts.{number}.up_proj" for number in (10, 9, 0)]
    assert sorted(names, key=sort_key) == names[::-1]
