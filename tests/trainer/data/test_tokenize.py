"""Texts -> token ids and labels: what is cut, dropped, counted and refused."""

import logging

import pytest

from spectra import InputError
from tests.trainer.data.examples import answers, bytewise, trained
from tests.trainer.data.examples import words as begins
from tests.trainer.examples import write_rows
from trainer.base_model import load_tokenizer
from trainer.data.dataset import read_texts
from trainer.data.tokenize import pack, tokenise
from trainer.settings import DataSettings


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return load_tokenizer(minilm)


def test_text_alone_is_language_modelling(tmp_path, tokenizer):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "one two three"}]))
    assert texts.task == "causal"
    examples = tokenise(texts, tokenizer, 16)
    assert examples.rows["labels"][0] == examples.rows["input_ids"][0]


def test_truncation_is_counted_exactly(tmp_path, tokenizer):
    lengths = [3, 6, 7, 20]  # words; two more tokens frame them
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": " ".join(["the"] * length)} for length in lengths]))
    examples = tokenise(texts, tokenizer, 8)
    assert examples.truncated == 2
    assert [len(tokens) for tokens in examples.rows["input_ids"]] == [5, 8, 8, 8]


def test_an_unknown_label_is_named_with_its_row(tmp_path, tokenizer):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "z"}]))
    with pytest.raises(InputError, match="row 2: label 'z' is unknown to the run; it knows a, b"):
        tokenise(texts, tokenizer, 8, ("a", "b"))


def test_long_prompts_lose_their_front_and_long_answers_are_left_out(tmp_path, words):
    examples = answers(tmp_path, words, [(2, 2), (2, 5), (6, 1), (9, 1)], 6)
    assert (len(examples.rows), examples.truncated, examples.dropped) == (3, 2, 1)
    assert [len(tokens) for tokens in examples.rows["input_ids"]] == [5, 6, 6]
    assert [len([label for label in labels if label != -100]) for labels in examples.rows["labels"]] == [3, 2, 2]


def test_nothing_is_dropped_when_the_loss_counts_everything(tmp_path, words):
    examples = answers(tmp_path, words, [(2, 2), (9, 1)], 6, settings=DataSettings(loss_on="all"))
    assert (len(examples.rows), examples.truncated, examples.dropped) == (2, 1, 0)


@pytest.mark.parametrize("pairs", [[(6, 1), (9, 1)], [(1, 1)]])
def test_a_file_without_a_token_to_learn_from_is_named(tmp_path, words, pairs):
    with pytest.raises(InputError, match=r"pairs.jsonl: no example has an answer that fits into `max_length` 1; raise it"):
        answers(tmp_path, words, pairs, 1)


def test_the_first_token_is_predicted_by_nothing(tmp_path, words):
    """A maximum length of one leaves no prediction, of a plain text either."""
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "the file"}]))
    with pytest.raises(InputError, match=r"no example has an answer that fits into `max_length` 1"):
        tokenise(texts, words, 1)


def test_packing_keeps_the_counts(tmp_path, words):
    packed = answers(tmp_path, words, [(2, 2), (2, 5), (6, 1)], 6, packing=True)
    assert (packed.task, packed.truncated, packed.dropped) == ("causal", 1, 1)


def test_what_cannot_be_packed_is_refused(tmp_path, tokenizer, words):
    texts = read_texts(write_rows(tmp_path / "c.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]))
    with pytest.raises(InputError, match=r"c.jsonl: classification cannot be packed, .* train without packing"):
        tokenise(texts, tokenizer, 8, ("a", "b"), packing=True)
    with pytest.raises(InputError, match="classification examples cannot be packed"):
        pack(tokenise(texts, tokenizer, 8, ("a", "b")), 8)
    packed = answers(tmp_path, words, [(1, 1)], 8, packing=True)
    with pytest.raises(InputError, match="packed examples cannot be packed; pack causal ones, once"):
        pack(packed, 8)


def test_a_classifier_needs_labels(tmp_path, tokenizer):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": "x"}]))
    with pytest.raises(InputError, match=r"t\.jsonl: no column 'label', but the task is classification"):
        tokenise(texts, tokenizer, 8, ("a", "b"))


def test_labels_become_their_positions_and_long_texts_lose_their_end(tmp_path, tokenizer):
    rows = [{"text": "the file", "label": "b"}, {"text": "the " * 20, "label": "a"}]
    examples = tokenise(read_texts(write_rows(tmp_path / "t.jsonl", rows)), tokenizer, 8, ("a", "b"))
    assert (examples.task, examples.truncated, examples.dropped) == ("classification", 1, 0)
    assert list(examples.rows["labels"]) == [1, 0]
    assert [len(ids) for ids in examples.rows["input_ids"]] == [4, 8]


@pytest.mark.parametrize(
    ("prompt", "completion"), [("what is it?", " written\n\nhere é"), ("what is it? ", "written"), ("one\n", "\ntwo")]
)
def test_the_loss_counts_exactly_the_completion(tmp_path, prompt, completion):
    """Also where the tokenizer would melt the end of the prompt and the start of the completion into one token."""
    tokenizer = bytewise()
    texts = read_texts(write_rows(tmp_path / "c.jsonl", [{"prompt": prompt, "completion": completion}]))
    row = tokenise(texts, tokenizer, 64).rows[0]
    assert trained(tokenizer, row) == [f"{completion}</s>"]
    asked = tokenizer(prompt)["input_ids"]
    assert row["input_ids"][: len(asked)] == asked
    assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_a_prompt_begins_as_the_tokenizer_begins_texts(tmp_path):
    tokenizer = begins()
    texts = read_texts(write_rows(tmp_path / "c.jsonl", [{"prompt": "the file", "completion": " reads it"}]))
    examples = tokenise(texts, tokenizer, 16)
    assert tokenizer.decode(examples.rows[0]["input_ids"]) == "<s> the file reads it </s>"
    assert examples.rows[0]["labels"][:3] == [-100] * 3
    everything = tokenise(texts, tokenizer, 16, settings=DataSettings(loss_on="all")).rows[0]
    assert everything["labels"] == everything["input_ids"] == examples.rows[0]["input_ids"]


def test_an_end_that_is_written_already_is_not_doubled(tmp_path):
    tokenizer = begins()
    texts = read_texts(write_rows(tmp_path / "c.jsonl", [{"prompt": "the", "completion": " file</s>"}]))
    assert trained(tokenizer, tokenise(texts, tokenizer, 16).rows[0]) == ["file </s>"]


def test_a_tokenizer_without_an_end_token_adds_none(tmp_path):
    tokenizer = begins()
    tokenizer.eos_token = None
    texts = read_texts(write_rows(tmp_path / "c.jsonl", [{"prompt": "the", "completion": " file"}]))
    assert trained(tokenizer, tokenise(texts, tokenizer, 16).rows[0]) == ["file"]


@pytest.mark.parametrize(("prompt", "completion", "said"), [("is ", "yes", True), ("is", " yes", False), ("is:", "yes", False)])
def test_a_prompt_whose_end_melts_with_the_answer_is_told_once(tmp_path, caplog, prompt, completion, said):
    """A tokenizer that has the space before a word inside the word's token, as most have."""
    tokenizer = spaced()
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": prompt, "completion": completion}] * 3)
    caplog.set_level(logging.WARNING, logger="loraplan")
    for _ in range(2):
        tokenise(read_texts(path), tokenizer, 32)
    assert len(caplog.records) == said
    if said:
        assert "in 3 of 3 rows looked at" in caplog.text
        assert "('is ' + 'yes')" in caplog.text
        assert "`join` space moves the space to the completion's start" in caplog.text


def spaced():
    """Byte-level BPE with one merge: a space and the y behind it are one token."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {letter: number for number, letter in enumerate([*alphabet, "\u0120y"], start=2)}
    made = Tokenizer(BPE(vocabulary, [("\u0120", "y")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize("own", ["", "<s> "])
def test_a_text_that_brings_its_beginning_gets_no_second_one(tmp_path, own):
    tokenizer = begins()
    pair = write_rows(tmp_path / "p.jsonl", [{"prompt": f"{own}the file", "completion": " reads"}])
    text = write_rows(tmp_path / "t.jsonl", [{"text": f"{own}the file reads"}])
    for file, end in ((pair, [tokenizer.eos_token_id]), (text, [])):
        ids = tokenise(read_texts(file), tokenizer, 16).rows[0]["input_ids"]
        assert ids == [tokenizer.bos_token_id, *tokenizer("the file reads", add_special_tokens=False)["input_ids"], *end]
