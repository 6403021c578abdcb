"""The differences between model families, in one table: how each stores a matrix, and what it calls it.

A family without a row stores what torch's own modules would: linear weights as (out, in), experts as (expert, out, in) with gate
above up, under the names of the live model. So most families need none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The projections of a routed expert, as live models call them. Gate and up may be fused into one tensor.
EXPERT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
# Matrices inside numbered layers that are no linear projections: positional tables, norms, the routers of expert models.
NO_PROJECTION = re.compile(r"(^|[._])(embed\w*|\w*embeddings?|relative_attention_bias|\w*norm|router|gate)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The facts about one `model_type` of transformers."""

    conv1d: frozenset[str] = frozenset()
    """Modules that are Conv1D and store (in, out)."""
    experts_transposed: bool = False
    """Whether fused experts are stored (expert, in, out)."""
    experts_interleaved: bool = False
    """Whether the fused gate and up alternate row by row instead of lying above one another."""
    experts_block: str = "mlp"
    """The block that holds the routed experts in per-expert checkpoints; live models call it `mlp`."""
    expert_names: Mapping[str, str] = field(default_factory=dict)
    """A live expert's projection -> what per-expert checkpoints call it, where that differs."""
    key_value_heads: Callable[[Mapping[str, Any]], int | None] | None = None
    """Configuration -> number of key and value heads of a fused projection, where the usual keys do not say or are wrong."""
    qkv_layout: Callable[[Mapping[str, Any]], str | None] | None = None
    """Configuration -> layout of a fused projection (spectra/checkpoint/fused.py), where it is not that of the module's name."""
    positions_after_padding: bool = False
    """Whether the first token's position is one after the padding token's number, which leaves fewer positions to a text."""


def _falcon_heads(config: Mapping[str, Any]) -> int | None:
    """Older Falcons share one key and value head, or have as many as queries, whatever their `num_kv_heads` says."""
    if config.get("new_decoder_architecture"):
        return None
    # True is FalconConfig's own default.
    return 1 if config.get("multi_query", True) else config.get("num_attention_heads") or config.get("n_head")


def _bigcode_heads(config: Mapping[str, Any]) -> int | None:
    return 1 if config.get("multi_query", True) else None  # True is the default of its class


def _mpt_heads(config: Mapping[str, Any]) -> int | None:
    return 1 if config.get("attn_type") == "multiquery_attention" else None


def _chatglm_heads(config: Mapping[str, Any]) -> int | None:
    return config.get("multi_query_group_num") if config.get("multi_query_attention") else None


def _chatglm_layout(config: Mapping[str, Any]) -> str:
    """With shared keys all queries come first; without, each head has its three together."""
    return "stacked" if config.get("multi_query_attention") else "grouped"


_GPT2 = Family(conv1d=frozenset({"c_attn", "q_attn", "c_proj", "c_fc"}))
_ROBERTA = Family(positions_after_padding=True)

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt-sw3": _GPT2,
    "openai-gpt": _GPT2,
    "imagegpt": _GPT2,
    "decision_transformer": _GPT2,
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "longformer": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "luke": _ROBERTA,
    "ibert": _ROBERTA,
    "xmod": _ROBERTA,
    "falcon": Family(key_value_heads=_falcon_heads),
    # Without shared keys each head has its three together, and with one shared key that is the same as all queries first.
    "gpt_bigcode": Family(key_value_heads=_bigcode_heads, qkv_layout=lambda _: "grouped"),
    "mpt": Family(key_value_heads=_mpt_heads),
    "chatglm": Family(key_value_heads=_chatglm_heads, qkv_layout=_chatglm_layout),
    "codegen": Family(qkv_layout=lambda _: "codegen"),
    "gpt_oss": Family(experts_transposed=True, experts_interleaved=True),
    "llama4": Family(experts_transposed=True),
    "llama4_text": Family(experts_transposed=True),
    "mixtral": Family(experts_block="block_sparse_moe", expert_names={"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}),
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The facts about a model, by the `model_type` of its config.json."""
    return FAMILIES.get(str(config.get("model_type")), Family())


def per_expert_name(path: str, expert: int, part: str, family: Family) -> str:
    """The matrix's name in checkpoints that store every expert by itself."""
    path = f"{path.removesuffix('mlp.experts')}{family.experts_block}.experts" if path.endswith("mlp.experts") else path
    return f"{path}.{expert}.{family.expert_names.get(part, part)}"
