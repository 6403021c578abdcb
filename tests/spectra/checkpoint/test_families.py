"""The table of what differs between model families. What it leads to is tested with whole models, in test_layouts.py."""

import pytest

from spectra.checkpoint.families import FAMILIES, NO_PROJECTION, Family, family_of


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"model_type": None}])
def test_a_family_without_a_row_stores_what_torchs_own_modules_would(config):
    assert family_of(config) == Family()
    assert (family_of(config).conv1d, family_of(config).experts_block, family_of(config).expert_names) == (frozenset(), "mlp", {})


def test_the_families_that_store_inputs_first():
    assert {name for name, family in FAMILIES.items() if family.conv1d} == {
        "gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer"
    }  # fmt: skip
    assert {name for name, family in FAMILIES.items() if family.experts_transposed} == {"gpt_oss", "llama4", "llama4_text"}


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"new_decoder_architecture": True, "num_kv_heads": 8}, None),  # the usual key says it
        ({"multi_query": True, "num_attention_heads": 71, "num_kv_heads": 71}, 1),
        ({"num_attention_heads": 71}, 1),
        ({"multi_query": False, "num_attention_heads": 32}, 32),
        ({"multi_query": False, "n_head": 12}, 12),
    ],
)
def test_falcons_key_and_value_heads(config, heads):
    assert FAMILIES["falcon"].key_value_heads(config) == heads


@pytest.mark.parametrize(
    "name",
    ["wte.embed", "layers.0.embed_positions", "layers.0.word_embeddings", "h.0.input_layernorm", "layers.0.q_norm",
     "layers.1.mlp.gate", "layers.1.block_sparse_moe.gate", "layers.1.mlp.router", "layers.0.attn.relative_attention_bias"],
)  # fmt: skip
def test_tables_norms_and_routers_are_no_projections(name):
    assert NO_PROJECTION.search(name)


@pytest.mark.parametrize("name", ["layers.0.mlp.gate_proj", "layers.0.q_proj", "layers.0.normalise_not", "layers.0.gated"])
def test_projections_are(name):
    assert not NO_PROJECTION.search(name)
