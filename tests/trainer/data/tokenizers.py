"""Tokenizers of the kinds that models have, trained on a few lines: what differs is what they do at the edges of texts."""

import functools
from pathlib import Path

import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

LINES = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines() * 2 + ["  \n\n\n", "é😀"]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _made(inner, **tokens):
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"} | tokens
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names, extra_special_tokens=SPECIAL[3:])


def _bytewise(split=None, prefix=False, trim=True, normalizer=None):
    inner = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=split is None)
    inner.pre_tokenizer = byte_level if split is None else pre_tokenizers.Sequence([split, byte_level])
    if normalizer:
        inner.normalizer = normalizer
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet))
    return _made(inner)


def _pieces(scheme, kind="bpe", normalizer=None):
    inner = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind == "unigram")
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if normalizer:
        inner.normalizer, inner.pre_tokenizer = normalizer, None
    if kind == "unigram":
        trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="<unk>")
    else:
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))])
    inner.train_from_iterator(LINES, trainer)
    return _made(inner)


def _words(lower):
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lower)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL))
    return _made(inner)


def _stripping():
    """As Phi-3's, whose marks take the blanks behind them."""
    made = _pieces("first")
    made.add_tokens([AddedToken("<|im_end|>", rstrip=True, special=True), AddedToken("<|im_start|>", rstrip=True, special=True)])
    return made


LEGACY = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "gpt2": _bytewise,
    "llama3": lambda: _bytewise(pre_tokenizers.Split(Regex(LLAMA3), "isolated")),
    "qwen": lambda: _bytewise(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), trim=False, normalizer=normalizers.NFC()),
    "smollm": lambda: _bytewise(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True)])),
    "roberta": lambda: _bytewise(prefix=True),
    "llama2": lambda: _pieces("first", normalizer=LEGACY),
    "mistral": lambda: _pieces("first"),
    "gemma": lambda: _pieces("never"),
    "always": lambda: _pieces("always"),
    "t5": lambda: _pieces("always", "unigram"),
    "phi3": _stripping,
    "bert": lambda: _words(True),
    "cased": lambda: _words(False),
}


@functools.cache
def tokenizer_of(kind):
    return KINDS[kind]()
