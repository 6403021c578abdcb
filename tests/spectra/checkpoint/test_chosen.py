import pytest

from spectra import InputError
from spectra.checkpoint.chosen import chosen_modules, is_attention

NAMES = [
    "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.layers.10.self_attn.o_proj",
    "model.layers.10.mlp.experts.3.w3", "encoder.layer.1.attention.output.dense", "encoder.layer.1.output.dense",
    "transformer.h.2.self_attention.query_key_value", "encoder.block.0.layer.0.SelfAttention.q", "model.embed_tokens",
]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("q_proj", [0]),
        ("q_proj, o_proj", [0, 2]),
        ("mlp.up_proj", [1]),
        ("up_proj", [1, 3]),  # Mixtral calls it w3
        ("w3", [3]),
        ("attention", [0, 2, 4, 6, 7]),
        ("mlp", [1, 3, 5]),  # the embedding is of no layer
        ("output.dense", [4, 5]),
        ("*.layers.1?.*", [2, 3]),
        ("attention,mlp", list(range(8))),
    ],
)
def test_modules_are_asked_for_by_name_by_group_or_by_pattern(asked, found):
    assert [at for at, one in enumerate(chosen_modules(NAMES, asked)) if one] == found


@pytest.mark.parametrize("asked", ["", "proj", "q_proj,", "*.lm_head", "Attention"])
def test_what_no_module_answers_to_is_refused(asked):
    with pytest.raises(InputError, match=r"`modules` .*: no such module; the model has q_proj, up_proj"):
        chosen_modules(NAMES, asked)


def test_attention_is_told_by_its_name():
    assert is_attention("h.0.attn.c_attn")
    assert not is_attention("h.0.mlp.c_fc")
