"""Tiny models for all tests: one row a family, weights that depend on numpy alone, a word-level tokenizer beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = "the a of to in is and file read write open close list dict set class method returns value error number string".split()  # noqa: SIM905


def _olmoe(**sizes: Any) -> Any:
    import transformers

    size = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 400, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return transformers.OlmoeConfig(**size | sizes)


def _llama(**sizes: Any) -> Any:
    import transformers

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": len(SPECIAL + WORDS), "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return transformers.LlamaConfig(**size | sizes)


CONFIGS: dict[str, Callable[..., Any]] = {"llama": _llama, "olmoe": _olmoe}


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


def save_tokenizer(folder: Path) -> None:
    """Write a word-level tokenizer of `WORDS`."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


def sentences(path: Path) -> Path:
    """Write 32 lines of text in `WORDS`."""
    import json

    lines = [
        {"text": " ".join(WORDS[(start * step + offset) % len(WORDS)] for offset in range(0, 2 * step, step))}
        for start in range(16)
        for step in (3, 5)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
