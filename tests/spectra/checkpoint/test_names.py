import pytest

from spectra import InputError
from spectra.checkpoint.names import parse_name, resolve, short_name, sort_key


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
def test_place(name, stack, layer, projection):
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
