"""Dataset files: read, refused with the place, mixed, and collated."""

import json

import datasets
import pytest
import torch

from spectra import InputError
from tests.trainer.data.examples import answers
from tests.trainer.examples import write_rows
from trainer.base_model import load_tokenizer
from trainer.data.dataset import batches, collator, mix, read_texts
from trainer.data.examples import Examples
from trainer.data.packing import CausalCollator
from trainer.data.tokenize import pack, tokenise


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return load_tokenizer(minilm)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_formats_read_alike(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    rows = [{"text": "one", "label": "b"}, {"text": "two", "label": "a"}]
    if suffix == ".csv":
        path.write_text("text,label\none,b\ntwo,a\n")
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write_rows(path, rows)
    texts = read_texts(path)
    assert (texts.task, texts.labels, list(texts.rows["text"])) == ("classification", ("a", "b"), ["one", "two"])


def test_numbers_are_labels_too(tmp_path):
    texts = read_texts(write_rows(tmp_path / "n.jsonl", [{"text": "x", "label": 1}, {"text": "y", "label": 0}]))
    assert texts.labels == ("0", "1")


def test_batches_hold_every_example_once_and_pad_with_ignored_labels(tmp_path, tokenizer):
    texts = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": " ".join(["the"] * length)} for length in range(1, 8)]))
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
        ('{"words": "a"}\n', "columns words fit no known format; say by `columns`"),
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
    with pytest.raises(InputError, match=r"nope.jsonl: No such file or directory"):
        read_texts(tmp_path / "nope.jsonl")


def test_answers_are_padded_with_ignored_labels(tmp_path, words):
    (batch,) = batches(answers(tmp_path, words, [(2, 1), (1, 4)], 16), words, 2)
    assert batch["labels"].tolist() == [[-100, *[words.convert_tokens_to_ids("file")] * 4, 2], [-100, -100, 10, 2, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]


def part(number, size, *, task="causal", truncated=0, dropped=0):
    columns = {"input_ids": [[number, position] for position in range(size)], "labels": [[number, 1]] * size}
    return Examples(task=task, rows=datasets.Dataset.from_dict(columns), truncated=truncated, dropped=dropped)


def test_a_mixture_without_weights_has_every_example_once():
    mixed = mix([part(0, 2, truncated=1, dropped=2), part(1, 3, truncated=4)], None, 0)
    assert mixed.rows["input_ids"] == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert (mixed.task, mixed.truncated, mixed.dropped) == ("causal", 5, 2)


def test_weights_are_shares_of_the_draws():
    parts = [part(0, 300), part(1, 300)]
    drawn = [tuple(row) for row in mix(parts, (1, 3), 0).rows["input_ids"]]
    assert set(drawn) == {(number, position) for number in (0, 1) for position in range(300)}
    assert 0.7 < sum(number == 1 for number, _ in drawn) / len(drawn) < 0.8
    assert drawn == [tuple(row) for row in mix(parts, (0.5, 1.5), 0).rows["input_ids"]]
    assert drawn != [tuple(row) for row in mix(parts, (1, 3), 1).rows["input_ids"]]


def test_a_mixture_can_be_packed_and_packed_files_mixed(tmp_path, words):
    alone, packed = (answers(tmp_path, words, [(1, 1), (2, 2)], 8, packing=packing) for packing in (False, True))
    assert pack(mix([alone, alone], (1, 1), 0), 8).packed
    assert mix([packed, packed], None, 0).rows["position_ids"] == [[*range(3), *range(5)]] * 2
    with pytest.raises(InputError, match="a mixture of packed and unpacked examples; pack all or none"):
        mix([alone, packed], None, 0)


def test_classification_files_mix_over_the_runs_labels(tmp_path, tokenizer):
    files = [write_rows(tmp_path / f"{label}.jsonl", [{"text": "x", "label": label}]) for label in ("a", "b")]
    parts = [tokenise(read_texts(file), tokenizer, 8, ("a", "b")) for file in files]
    assert mix(parts, None, 0).rows["labels"] == [0, 1]


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([], None, "a mixture needs at least one file"),
        ([part(0, 1), part(1, 1, task="classification")], None, "of one task; found causal and classification"),
        ([part(0, 1), part(1, 1)], (1,), "1 weights for 2 files; give one each"),
        ([part(0, 1), part(1, 1)], (1, 0), "weight 0 of a mixture; every weight must be positive"),
        ([part(0, 1), part(1, 1)], (float("nan"), 1), "weight nan of a mixture"),
    ],
)
def test_mixtures_that_do_not_fit_are_named(parts, weights, message):
    with pytest.raises(InputError, match=message):
        mix(parts, weights, 0)


def test_csv_fields_are_text_as_they_are_written(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text("id,prompt,completion\n1,6 x 7 =,42\n2,who?,NA\n")
    assert [row["completion"] for row in read_texts(path).rows] == ["42", "NA"]
    path.write_text("instruction,input,output\nadd,1,2\nwait,,3\n")
    assert [row["messages"][0]["content"] for row in read_texts(path).rows] == ["add\n1", "wait"]


@pytest.mark.parametrize(("line", "fields"), [("the file, too,a", 3), ("the file", 1)])
def test_csv_lines_of_another_length_are_named(tmp_path, line, fields):
    path = tmp_path / "data.csv"
    path.write_text(f'text,label\n"two\nlines",a\n{line}\n')
    with pytest.raises(InputError, match=f"data.csv:4: {fields} fields under 2 columns; put fields that hold a comma in quotes"):
        read_texts(path)


def test_columns_of_no_format_are_listed_with_the_known_ones(tmp_path):
    path = write_rows(tmp_path / "data.jsonl", [{"words": "a", "more": "b"}])
    with pytest.raises(InputError, match=r"columns words, more fit no known format; .* completion \(prompt, completion\);"):
        read_texts(path)


def test_questions_are_read_for_an_evaluation_only(tmp_path):
    path = write_rows(tmp_path / "q.jsonl", [{"prompt": "a", "choices": ["b", "c"], "answer": 1}])
    texts = read_texts(path, evaluation=True)
    assert (texts.format, texts.task, texts.asks) == ("multiple-choice", "causal", True)
    assert texts.rows.to_list() == [{"prompt": "a", "choices": ["b", "c"], "answer": 1, "row": 1}]
    with pytest.raises(InputError, match=r"q\.jsonl: multiple-choice questions can be evaluated, not trained on"):
        read_texts(path)


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"data\.jsonl:.*2: not UTF-8 text"):
        read_texts(path)


def test_the_collator_fits_the_task(words):
    assert isinstance(collator("causal", words), CausalCollator)
    batch = collator("classification", words)([{"input_ids": [3, 4], "labels": 1}, {"input_ids": [5], "labels": 0}])
    assert batch["labels"].tolist() == [1, 0]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert torch.equal(batch["input_ids"][:, 0], torch.tensor([3, 5]))


def test_text_that_looks_like_a_date_stays_text(tmp_path):
    rows = [{"prompt": "when", "completion": f"2020-01-0{day}"} for day in (1, 2)]
    texts = read_texts(write_rows(tmp_path / "t.jsonl", rows))
    assert [row["completion"] for row in texts.rows] == ["2020-01-01", "2020-01-02"]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert read_texts(tmp_path / "t.json").rows[:] == texts.rows[:]


def test_pairs_and_single_texts_may_be_mixed(tmp_path, tokenizer):
    pairs = write_rows(tmp_path / "p.jsonl", [{"premise": "the file", "hypothesis": "a list", "label": "a"}])
    single = write_rows(tmp_path / "s.jsonl", [{"text": "the file is a list", "label": "b"}])
    parts = [tokenise(read_texts(file), tokenizer, 16, ("a", "b")) for file in (pairs, single)]
    assert parts[0].rows[0]["input_ids"] == tokenizer("the file", "a list")["input_ids"]
    assert 1 in parts[0].rows[0]["token_type_ids"]
    mixed = mix(parts, None, 0)
    (batch,) = batches(mixed, tokenizer, 2)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    assert sorted(batch["token_type_ids"].sum(1).tolist())[0] == 0


def test_the_longer_of_two_texts_is_cut_first(tmp_path, tokenizer):
    rows = [{"premise": "the " * 20, "hypothesis": "a list", "label": "a"}, {"premise": "a", "hypothesis": "b", "label": "b"}]
    examples = tokenise(read_texts(write_rows(tmp_path / "p.jsonl", rows)), tokenizer, 12, ("a", "b"))
    assert [len(ids) for ids in examples.rows["input_ids"]] == [12, 5]
    assert examples.truncated == 1
    assert tokenizer.decode(examples.rows[0]["input_ids"]).endswith("a list [SEP]")
