"""Tiny models for all tests, in one table: a row is a family of transformers and the sizes that it has here.

`CONFIGS["olmoe"]()` is a configuration; what a test needs otherwise it says in the family's own words, `num_experts=3`. `build`
gives a model with transformers' random weights, `fill` weights that no version of torch or transformers changes. Everything is
small enough to be built anew in every test.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = "the a of to in is and file read write open close list dict set class method returns value error number string".split()  # noqa: SIM905

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
DENSE = SIZES | {"vocab_size": len(SPECIAL + WORDS)}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
GROUPED = DENSE | ENDS | {"num_key_value_heads": 2}
# Two of four experts for every token; the number of experts is left to the rows, as every family has a word of its own for it.
ROUTED = ENDS | {
    "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_experts_per_tok": 2, "vocab_size": 400, "pad_token_id": 0,
}  # fmt: skip
# The first layer dense, the second routed; queries, keys and values through low-rank projections.
DEEPSEEK = ROUTED | {
    "num_key_value_heads": 2, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 12, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip


def _row(config: str, *shared: dict[str, Any], **own: Any) -> Callable[..., Any]:
    """A configuration class of transformers and its sizes here; what a test gives goes over them."""

    def made(**sizes: Any) -> Any:
        import transformers

        given: dict[str, Any] = {}
        for part in (*shared, own, sizes):
            given |= part
        return getattr(transformers, config)(**given)

    return made


CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": _row("LlamaConfig", GROUPED),
    "gpt2": _row("GPT2Config", ENDS, vocab_size=len(SPECIAL + WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gemma2": _row("Gemma2Config", GROUPED, pad_token_id=0, head_dim=8, final_logit_softcapping=3.0, query_pre_attn_scalar=8),
    "phi3": _row("Phi3Config", GROUPED, pad_token_id=0),
    "gpt-neox": _row("GPTNeoXConfig", DENSE, ENDS),
    "bloom": _row("BloomConfig", ENDS, vocab_size=len(SPECIAL + WORDS), hidden_size=32, n_layer=2, n_head=4),
    "falcon": _row("FalconConfig", DENSE, ENDS),
    "falcon-grouped": _row("FalconConfig", DENSE, ENDS, num_kv_heads=2, new_decoder_architecture=True),
    "olmoe": _row("OlmoeConfig", ROUTED, num_experts=4),
    "mixtral": _row("MixtralConfig", ROUTED, num_local_experts=4),
    "qwen3-moe": _row("Qwen3MoeConfig", ROUTED, num_experts=4, moe_intermediate_size=12, head_dim=8),
    "deepseek-v2": _row("DeepseekV2Config", DEEPSEEK),
    "deepseek-v3": _row("DeepseekV3Config", DEEPSEEK),
    "gpt-oss": _row("GptOssConfig", ROUTED, num_local_experts=4, head_dim=8),
    "bert": _row("BertConfig", DENSE),
    "modernbert": _row("ModernBertConfig", DENSE, ENDS, pad_token_id=0, cls_token_id=1, sep_token_id=2),
    "t5": _row("T5Config", vocab_size=len(SPECIAL + WORDS), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "vit": _row("ViTConfig", SIZES, image_size=32, patch_size=8),
    "resnet": _row("ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
}
ENCODERS = ("bert", "modernbert", "t5", "vit", "resnet")
LANGUAGE_MODELS = tuple(family for family in CONFIGS if family not in ENCODERS)
MOE_FAMILIES = ("olmoe", "mixtral", "qwen3-moe", "deepseek-v2", "deepseek-v3", "gpt-oss")
EVERY_LAYER_ROUTED = ("olmoe", "mixtral", "qwen3-moe", "gpt-oss")


def build(family: str, head: str | None = None, options: dict[str, Any] | None = None, **sizes: Any) -> Any:
    """A model with the random weights that transformers draws after seed 0.

    Args:
        family: a row of `CONFIGS`.
        head: an Auto class of transformers, if not a language model, or the bare encoder of `ENCODERS`.
        options: for that class's `from_config`.
        sizes: what shall differ from the row.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    auto = getattr(transformers, head or ("AutoModel" if family in ENCODERS else "AutoModelForCausalLM"))
    return auto.from_config(CONFIGS[family](**sizes), **options or {})


def without_zeros(model: Any) -> Any:
    """Draw anew what starts at zero in some families, biases and routers: all zeros would hide mistakes."""
    import torch

    for parameter in model.parameters():
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def fill(model: Any, seed: int = 0) -> Any:
    """Give a model heavy-tailed weights that no version of torch or transformers changes: matrices only, norms stay one."""
    import torch

    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                values = rng.standard_t(4, size=tuple(parameter.shape)) * 0.05
                parameter.copy_(torch.from_numpy(values).to(parameter.dtype))
    return model


def save_filled(family: str, folder: Path, **sizes: Any) -> Path:
    """Write a filled model of a family and its tokenizer, as transformers writes them."""
    import transformers

    fill(transformers.AutoModelForCausalLM.from_config(CONFIGS[family](**sizes))).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_built(family: str, folder: Path, **sizes: Any) -> Path:
    """Write what `build` builds, with the tokenizer."""
    build(family, **sizes).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_with_tokenizer(config: Any, folder: Path) -> Path:
    """Write a language model of any configuration, with random weights after seed 0, and the tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Write a word-level tokenizer of `WORDS`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def sentences(path: Path, words: int = 2) -> Path:
    """Write 32 lines of text in `WORDS`, of so many words each."""
    lines = [
        {"text": " ".join(WORDS[(start * step + offset) % len(WORDS)] for offset in range(0, words * step, step))}
        for start in range(16)
        for step in (3, 5)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def save_gguf(folder: Path, file: Path, kind: str = "F32", tokenizer: bool = True, **fields: Any) -> Path:
    """Write a tiny Llama of a folder as llama.cpp's converter would: q and k permuted, matrices of one kind, a tokenizer inside.

    Args:
        folder: from `save_with_tokenizer`.
        file: what to write.
        kind: of the matrices, a name of gguf's types of quantisation.
        tokenizer: whether to write one: a byte-level BPE of single letters.
        fields: metadata that stands in the place of what the configuration says, dots as double underscores.
    """
    import gguf
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    if tokenizer:
        letters = [*"abcdefghijklmnopqrstuvwxyz", "ab"][: config.vocab_size - 3]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*SPECIAL, *letters])
        writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * len(letters))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values, module = tensor.numpy(), name.removesuffix(".weight")
        if (count := heads.get(module.rpartition(".")[2])) is not None:
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        chosen = getattr(gguf.GGMLQuantizationType, kind if values.ndim > 1 else "F32")
        stored = gguf.quants.quantize(np.ascontiguousarray(values), chosen)
        writer.add_tensor(names.get_name(module) + ".weight", stored, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
