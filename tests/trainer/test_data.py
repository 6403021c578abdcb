import json

import pytest

from spectra import InputError
from trainer.data import batches, read_texts, tokenise
from trainer.models import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return load_tokenizer(minilm)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_formats_read_alike(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    rows = [{"text": "one", "label": "b"}, {"text": "two", "label": "a"}]
    if suffix == ".csv":
        path.write_text("text,label\none,b\ntwo,a\n")
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write(path, rows)
    texts = read_texts(path)
    assert (texts.kind, texts.labels, list(texts.rows["text"])) == ("classification", ("a", "b"), ["one", "two"])


def test_numbers_are_labels_too(tmp_path):
    texts = read_texts(write(tmp_path / "n.jsonl", [{"text": "x", "label": 1}, {"text": "y", "label": 0}]))
    assert texts.labels == ("0", "1")


def test_text_alone_is_language_modelling(tmp_path, tokenizer):
    texts = read_texts(write(tmp_path / "t.jsonl", [{"text": "one two three"}]))
    assert texts.kind == "causal"
    examples = tokenise(texts, tokenizer, 16)
    assert examples.rows["labels"][0] == examples.rows["input_ids"][0]


def test_truncation_is_counted_exactly(tmp_path, tokenizer):
    lengths = [3, 6, 7, 20]  # words; two more tokens frame them
    texts = read_texts(write(tmp_path / "t.jsonl", [{"text": " ".join(["the"] * length)} for length in lengths]))
    examples = tokenise(texts, tokenizer, 8)
    assert examples.truncated == 2
    assert [len(tokens) for tokens in examples.rows["input_ids"]] == [5, 8, 8, 8]


def test_batches_hold_every_example_once_and_pad_with_ignored_labels(tmp_path, tokenizer):
    texts = read_texts(write(tmp_path / "t.jsonl", [{"text": " ".join(["the"] * length)} for length in range(1, 8)]))
    examples = tokenise(texts, tokenizer, 16)
    found = list(batches(examples, tokenizer, 3))
    assert [tuple(batch["input_ids"].shape) for batch in found] == [(3, 9), (3, 6), (1, 3)]
    for batch in found:
        assert ((batch["labels"] == -100) == (batch["attention_mask"] == 0)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("\n\n", "no examples|cannot be read"),
        ('{"text": "a", "label": "x"}\n{"text": "b"\n', r"data.jsonl:2: not JSON"),
        ('{"text": "a"}\n[1, 2]\n', r"data.jsonl:2: expected an object"),
        ('{"words": "a"}\n', "no column 'text' among words"),
        ('{"text": "a", "label": "x"}\n{"text": "b"}\n', "row 2: label is missing"),
        ('{"text": "a"}\n{"text": null}\n', "row 2: text is None"),
        ('{"text": "a"}\n{"text": "  "}\n', "row 2: text is '  '"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path, content, message):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_formats_and_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot tell the format from '.xlsx'"):
        read_texts("data.xlsx")
    with pytest.raises(InputError, match=r"nope.jsonl: no such file"):
        read_texts(tmp_path / "nope.jsonl")


def test_an_unknown_label_is_named_with_its_row(tmp_path, tokenizer):
    texts = read_texts(write(tmp_path / "t.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "z"}]))
    with pytest.raises(InputError, match="row 2: label 'z' is unknown to the run; it knows a, b"):
        tokenise(texts, tokenizer, 8, ("a", "b"))
