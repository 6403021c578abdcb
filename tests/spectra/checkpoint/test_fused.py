"""Fused projections come apart as the architecture's own code takes them apart, or stay whole."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra import analyze
from spectra.checkpoint.fused import fused_parts, is_fused

SIDE = 3


def rows_of(parts):
    return {name: [row for part in ranges for row in range(*part)] for name, ranges in parts.items()}


def split(*sizes):
    """Rows of a projection that keeps its three parts one below the other."""
    q, k, v = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return {"q": q.tolist(), "k": k.tolist(), "v": v.tolist()}


def by_group(groups, queries):
    """Rows of a projection that keeps, for every head of keys, `queries` heads of queries, the key and the value."""
    table = np.arange(groups * (queries + 2) * SIDE).reshape(groups, queries + 2, SIDE)
    return {"q": table[:, :-2].ravel().tolist(), "k": table[:, -2].ravel().tolist(), "v": table[:, -1].ravel().tolist()}


FOUR = {"num_attention_heads": 4, "hidden_size": 12}
BIGCODE = {"model_type": "gpt_bigcode", "n_head": 4, "n_embd": 12}
MPT = {"model_type": "mpt", "n_heads": 4, "d_model": 12}
FALCON, CHATGLM = FOUR | {"model_type": "falcon"}, FOUR | {"model_type": "chatglm", "kv_channels": 3}
# Each row is what the code of the named model does with the outputs; four heads of three, a width of twelve.
TABLE = [
    ("c_attn", {"model_type": "gpt2", "n_head": 4, "n_embd": 12}, split(12, 12, 12)),
    ("c_attn", BIGCODE | {"multi_query": True}, split(12, 3, 3)),
    ("c_attn", BIGCODE, split(12, 3, 3)),
    ("c_attn", BIGCODE | {"multi_query": False}, by_group(4, 1)),
    ("c_attn", FOUR | {"model_type": "qwen", "kv_channels": 3}, split(12, 12, 12)),
    ("Wqkv", {"model_type": "dbrx", "n_heads": 4, "d_model": 12, "attn_config": {"kv_n_heads": 2}}, split(12, 6, 6)),
    ("Wqkv", MPT, split(12, 12, 12)),
    ("Wqkv", MPT | {"attn_config": {"attn_type": "multiquery_attention"}}, split(12, 3, 3)),
    ("Wqkv", FOUR | {"model_type": "modernbert"}, split(12, 12, 12)),
    ("W_pack", FOUR | {"model_type": "baichuan"}, split(12, 12, 12)),
    ("qkv_proj", FOUR | {"model_type": "phi3", "num_key_value_heads": 2}, split(12, 6, 6)),
    ("qkv_proj", FOUR | {"num_key_value_heads": 1, "head_dim": 3}, split(12, 3, 3)),
    ("wqkv", FOUR | {"model_type": "internlm2", "num_key_value_heads": 2}, by_group(2, 2)),
    ("query_key_value", FOUR | {"model_type": "persimmon"}, by_group(4, 1)),
    ("query_key_value", {"model_type": "bloom", "n_head": 4, "hidden_size": 12}, by_group(4, 1)),
    ("query_key_value", FALCON, split(12, 3, 3)),
    ("query_key_value", FALCON | {"multi_query": False}, by_group(4, 1)),
    ("query_key_value", FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True}, by_group(2, 2)),
    ("query_key_value", CHATGLM | {"multi_query_attention": True, "multi_query_group_num": 2}, split(12, 6, 6)),
    ("query_key_value", CHATGLM, by_group(4, 1)),
    ("qkv", {"num_attention_heads": 7, "hidden_size": 99}, split(12, 12, 12)),  # a tower of images beside a text model
    ("in_proj_weight", {}, split(12, 12, 12)),
]


@pytest.mark.parametrize(("leaf", "config", "rows"), TABLE)
def test_parts_are_those_of_the_architecture(leaf, config, rows):
    size = sum(map(len, rows.values()))
    assert rows_of(fused_parts(leaf, size, 12, config)) == rows


def test_codegen_keeps_four_blocks_of_queries_values_and_keys():
    # Eight heads of three: a block has the queries of two heads, their values, their keys.
    table = np.arange(72).reshape(4, 3, 6)
    found = rows_of(fused_parts("qkv_proj", 72, 24, {"model_type": "codegen", "n_head": 8, "n_embd": 24}))
    assert found == {"q": table[:, 0].ravel().tolist(), "v": table[:, 1].ravel().tolist(), "k": table[:, 2].ravel().tolist()}


@pytest.mark.parametrize(
    ("leaf", "d_out", "d_in", "config"),
    [
        ("c_attn", 36, 12, {}),  # three divides it, and nobody says that it has three parts
        ("Wqkv", 36, 12, {}),
        ("c_attn", 24, 12, {"model_type": "gpt2", "n_head": 4, "n_embd": 12}),  # keys and values of cross-attention
        ("Wqkv", 36, 12, {"model_type": "dbrx", "n_heads": 4, "d_model": 12, "attn_config": {"kv_n_heads": 2}}),
        ("qkv_proj", 36, 12, {"num_attention_heads": 4, "hidden_size": 24}),  # another stack's configuration
        ("query_key_value", 36, 12, {"num_attention_heads": 4, "num_key_value_heads": 3, "hidden_size": 12}),
        ("qkv_proj", 36, 12, {"num_attention_heads": "4"}),
        ("qkv_proj", 36, 12, {"num_attention_heads": -4}),
        ("qkv_proj", 36, 12, {"num_attention_heads": True}),
        ("qkv_proj", 36, 12, {"num_attention_heads": [4], "attn_config": 5}),
        ("query_key_value", 36, 12, {"model_type": "falcon", "num_attention_heads": 4, "hidden_size": 12}),
        ("qkv_proj", 6, 2, {"model_type": "codegen", "n_head": 2, "n_embd": 2}),  # not four blocks
        ("dense", 36, 12, {"num_attention_heads": 4, "hidden_size": 12}),
        ("gate_up_proj", 7, 12, {}),
        ("in_proj_weight", 7, 12, {}),
    ],
)
def test_what_the_configuration_does_not_explain_stays_whole(leaf, d_out, d_in, config):
    assert fused_parts(leaf, d_out, d_in, config) == {}


def test_gate_and_up_are_halves():
    assert fused_parts("gate_up_proj", 8, 4, {}) == {"gate": [(0, 4, 1)], "up": [(4, 8, 1)]}


def test_a_module_that_stays_whole_is_named(tmp_path, caplog):
    save_file({f"h.{layer}.attn.c_attn.weight": torch.randn(36, 12) for layer in range(2)}, tmp_path / "model.safetensors")
    with caplog.at_level("INFO"):
        report = analyze(tmp_path)
    assert [site.name for site in report.sites] == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    assert "h.0.attn.c_attn and 1 more: kept whole, because config.json does not say which outputs are queries" in caplog.text
    assert is_fused("c_attn")
    assert not is_fused("c_proj")
