import json

import datasets
import pytest
import torch
import transformers

from planner import example_losses
from spectra import InputError
from trainer.base_model import load_tokenizer
from trainer.data.dataset import batches, collator, mix, read_texts
from trainer.data.examples import Examples
from trainer.data.packing import block_mask, first_fit
from trainer.data.tokenize import pack, tokenise


@pytest.fixture(scope="module")
def tokenizer(minilm):
    return load_tokenizer(minilm)


@pytest.fixture(scope="module")
def words(tiny_llama):
    """A tokenizer of one token per word and nothing around a text."""
    return load_tokenizer(tiny_llama)


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
        ('{"words": "a"}\n', "columns words fit no known format; rename them"),
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


def answers(tmp_path, words, pairs, max_length, **options):
    """Examples of a prompt and a completion of so many words each; the end of the text is one token more."""
    rows = [{"prompt": " ".join(["the"] * asked), "completion": " file" * answered} for asked, answered in pairs]
    return tokenise(read_texts(write(tmp_path / "pairs.jsonl", rows)), words, max_length, **options)


def test_examples_that_lose_all_their_answer_are_dropped_and_counted(tmp_path, words):
    examples = answers(tmp_path, words, [(2, 2), (2, 5), (6, 1), (9, 1)], 6)
    assert (len(examples.rows), examples.truncated, examples.dropped) == (2, 3, 2)
    assert [len(tokens) for tokens in examples.rows["input_ids"]] == [5, 6]
    assert [len([label for label in labels if label != -100]) for labels in examples.rows["labels"]] == [3, 4]


def test_nothing_is_dropped_when_the_loss_counts_everything(tmp_path, words):
    examples = answers(tmp_path, words, [(2, 2), (9, 1)], 6, loss_on="all")
    assert (len(examples.rows), examples.truncated, examples.dropped) == (2, 1, 0)


@pytest.mark.parametrize("pairs", [[(6, 1), (9, 1)], [(1, 1)]])
def test_a_file_without_a_token_to_learn_from_is_named(tmp_path, words, pairs):
    with pytest.raises(InputError, match=r"pairs.jsonl: no example has a token to learn from within max_length 1; raise it"):
        answers(tmp_path, words, pairs, 1)


def test_the_first_token_is_predicted_by_nothing(tmp_path, words):
    """A maximum length of one leaves no prediction, of a plain text either."""
    texts = read_texts(write(tmp_path / "t.jsonl", [{"text": "the file"}]))
    with pytest.raises(InputError, match="no example has a token to learn from within max_length 1"):
        tokenise(texts, words, 1)


def test_answers_are_padded_with_ignored_labels(tmp_path, words):
    (batch,) = batches(answers(tmp_path, words, [(2, 1), (1, 4)], 16), words, 2)
    assert batch["labels"].tolist() == [[-100, *[words.convert_tokens_to_ids("file")] * 4, 2], [-100, -100, 10, 2, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 4 + [0] * 2]


@pytest.mark.parametrize(
    ("lengths", "blocks"),
    [
        ([3, 3, 3], [[0, 1], [2]]),
        ([5, 4, 2, 3], [[0, 2], [1, 3]]),
        ([7, 7], [[0], [1]]),
        ([1, 6, 1, 5], [[0, 1], [2, 3]]),
        ([], []),
    ],
)
def test_first_fit(lengths, blocks):
    assert first_fit(lengths, 7) == blocks


def test_packing_splits_no_example_and_loses_none(tmp_path, words):
    pairs = [(2, 2), (3, 4), (1, 1), (4, 2), (2, 1)]
    alone, packed = (answers(tmp_path, words, pairs, 8, packing=packing) for packing in (False, True))
    assert (alone.packed, packed.packed) == (False, True)
    assert packed.rows["position_ids"] == [[*range(5), *range(3)], [*range(8)], [*range(7)], [*range(4)]]
    found = list(packed.rows["input_ids"])
    one, two, three, four, five = alone.rows["input_ids"]
    assert found == [one + three, two, four, five]


def test_packing_keeps_the_counts(tmp_path, words):
    packed = answers(tmp_path, words, [(2, 2), (2, 5), (6, 1)], 6, packing=True)
    assert (packed.kind, packed.truncated, packed.dropped) == ("causal", 2, 1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_examples_do_not_see_one_another(tmp_path, words, request, model, attention, dtype):
    """Logits are those of each example alone; rows of different lengths, so that padding is there too."""
    folder = request.getfixturevalue(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    texts = ("the file is open", "read a list", "close the set of dict to string", "a class")
    read = read_texts(write(tmp_path / "t.jsonl", [{"text": text} for text in texts]))
    alone, packed = tokenise(read, words, 9), tokenise(read, words, 9, packing=True)
    (batch,) = batches(packed, words, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        logits = network(**batch).logits.float()
        singles = [network(input_ids=torch.tensor([row])).logits[0].float() for row in alone.rows["input_ids"]]
    assert batch["attention_mask"].shape == (2, 1, 9, 9)
    assert batch["input_ids"][0].tolist() == alone.rows["input_ids"][0] + alone.rows["input_ids"][1] + alone.rows["input_ids"][3]
    close = {"rtol": 0, "atol": 1e-5 if dtype is torch.float32 else 1e-2}
    torch.testing.assert_close(logits[0], torch.cat([singles[0], singles[1], singles[3]]), **close)
    torch.testing.assert_close(logits[1, :7], singles[2], **close)
    assert torch.isfinite(logits).all()


def test_the_loss_of_packed_examples_is_that_of_each_alone(tmp_path, tiny_llama, words):
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    pairs = [(2, 2), (3, 4), (1, 1), (4, 2), (2, 1)]
    sums = []
    for packing in (False, True):
        (batch,) = batches(answers(tmp_path, words, pairs, 12, packing=packing), words, 8)
        labels = batch.pop("labels")
        with torch.no_grad():
            losses = example_losses(network(**batch).logits, labels)
        sums.append((losses * (labels[:, 1:] != -100).sum(1)).sum())
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-6, atol=0)


def test_block_mask():
    mask = block_mask(torch.tensor([[0, 1, 0, 0]]), torch.tensor([3]))
    assert mask.dtype == torch.float32
    assert (mask == 0).int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]]]


def test_what_cannot_be_packed_is_refused(tmp_path, tokenizer, words):
    texts = read_texts(write(tmp_path / "c.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]))
    with pytest.raises(InputError, match=r"c.jsonl: classification cannot be packed, .* train without packing"):
        tokenise(texts, tokenizer, 8, ("a", "b"), packing=True)
    with pytest.raises(InputError, match="classification examples cannot be packed"):
        pack(tokenise(texts, tokenizer, 8, ("a", "b")), 8)
    packed = answers(tmp_path, words, [(1, 1)], 8, packing=True)
    with pytest.raises(InputError, match="packed examples cannot be packed; pack causal ones, once"):
        pack(packed, 8)
    with pytest.raises(InputError, match="packed examples need position_ids, which the model does not take"):
        collator("causal", words)([{"input_ids": [1], "labels": [1]}])


def part(number, size, *, kind="causal", truncated=0, dropped=0):
    columns = {"input_ids": [[number, position] for position in range(size)], "labels": [[number, 1]] * size}
    return Examples(kind=kind, rows=datasets.Dataset.from_dict(columns), truncated=truncated, dropped=dropped)


def test_a_mixture_without_weights_has_every_example_once():
    mixed = mix([part(0, 2, truncated=1, dropped=2), part(1, 3, truncated=4)], None, 0)
    assert mixed.rows["input_ids"] == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert (mixed.kind, mixed.truncated, mixed.dropped) == ("causal", 5, 2)


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
    files = [write(tmp_path / f"{label}.jsonl", [{"text": "x", "label": label}]) for label in ("a", "b")]
    parts = [tokenise(read_texts(file), tokenizer, 8, ("a", "b")) for file in files]
    assert mix(parts, None, 0).rows["labels"] == [0, 1]


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ([], None, "a mixture needs at least one file"),
        ([part(0, 1), part(1, 1, kind="classification")], None, "of one kind; found causal and classification"),
        ([part(0, 1), part(1, 1)], (1,), "1 weights for 2 files; give one each"),
        ([part(0, 1), part(1, 1)], (1, 0), "weight 0 of a mixture; every weight must be positive"),
        ([part(0, 1), part(1, 1)], (float("nan"), 1), "weight nan of a mixture"),
    ],
)
def test_mixtures_that_do_not_fit_are_named(parts, weights, message):
    with pytest.raises(InputError, match=message):
        mix(parts, weights, 0)
