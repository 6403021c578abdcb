"""Rows and tokenizers made by hand, for tests that say which tokens a loss counts."""

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.data.formats.messages import message
from trainer.data.tokenize import tokenise

WORDS = ["be", "short", "the", "a", "file", "reads", "what", "does", "it", "list", "no"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like reasoning models' templates: what the last turn has and earlier ones lose.
REWRITES = CHATML.replace(
    "{{ message['content'] }}", "{{ '<think>' if loop.last and message['role'] == 'assistant' }}{{ message['content'] }}"
)
REFUSES = "{{ raise_exception('no system turns here\\nreally') if messages[0]['role'] == 'system' }}" + CHATML


def words(template=None):
    """A word-level tokenizer that begins a text with <s>."""
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: number for number, word in enumerate([*special, "system", "user", "assistant", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names, extra_special_tokens=special[3:])
    made.chat_template = template
    return made


def bytewise(template=None):
    """A byte-level tokenizer that loses no character, and melts " w" and two line breaks into one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, "Ġw", "ĊĊ", "</s>", "<|im_start|>", "<|im_end|>"])}
    inner = Tokenizer(models.BPE(vocabulary, [("Ġ", "w"), ("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>", **special)
    made.chat_template = template
    return made


def turns(*contents, system=None):
    """Canonical messages, which a file may hold as well."""
    roles = ("user", "assistant")
    found = [said(roles[position % 2], content) for position, content in enumerate(contents)]
    return ([said("system", system)] if system else []) + found


def said(role, content, learned=None, **more):
    return message(role, content, learned=learned, **more)


def talk(*messages, tools=""):
    """A canonical row of messages."""
    return {"messages": list(messages), "tools": tools}


def trained(tokenizer, row):
    """The text whose tokens the loss counts, one string per unbroken stretch."""
    stretches, inside = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label != -100:
            stretches = [*stretches[:-1], [*stretches[-1], token]] if inside else [*stretches, [token]]
        inside = label != -100
    return [tokenizer.decode(stretch) for stretch in stretches]


TALK = talk(*turns("what does it", "it reads", "the list", "no", system="be short"))
BARE = {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in TALK["messages"]]}
"""The same as a file has it."""


def answers(tmp_path, words, pairs, max_length, **options):
    """Examples of a prompt and a completion of so many words each; the end of the text is one token more."""
    rows = [{"prompt": " ".join(["the"] * asked), "completion": " file" * answered} for asked, answered in pairs]
    return tokenise(read_texts(write_rows(tmp_path / "pairs.jsonl", rows)), words, max_length, **options)
