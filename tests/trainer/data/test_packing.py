"""Several examples in one row, none of which sees another."""

import pytest
import torch
import transformers

from planner.modules.labelled import example_losses
from spectra import InputError
from tests.trainer.data.examples import answers
from tests.trainer.examples import write_rows
from trainer.data.dataset import batches, read_texts
from trainer.data.packing import CausalCollator, block_mask, first_fit
from trainer.data.tokenize import tokenise
from trainer.settings import DataSettings


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
def test_each_example_goes_to_the_first_block_with_room(lengths, blocks):
    assert first_fit(lengths, 7) == blocks


def test_packing_splits_no_example_and_loses_none(tmp_path, words):
    pairs = [(2, 2), (3, 4), (1, 1), (4, 2), (2, 1)]
    alone, packed = (answers(tmp_path, words, pairs, 8, packing=packing) for packing in (False, True))
    assert (alone.packed, packed.packed) == (False, True)
    assert packed.rows["position_ids"] == [[*range(5), *range(3)], [*range(8)], [*range(7)], [*range(4)]]
    found = list(packed.rows["input_ids"])
    one, two, three, four, five = alone.rows["input_ids"]
    assert found == [one + three, two, four, five]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_examples_do_not_see_one_another(tmp_path, words, request, model, attention, dtype):
    """Logits are those of each example alone; rows of different lengths, so that padding is there too."""
    folder = request.getfixturevalue(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    texts = ("the file is open", "read a list", "close the set of dict to string", "a class")
    read = read_texts(write_rows(tmp_path / "t.jsonl", [{"text": text} for text in texts]))
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


def test_a_token_sees_the_earlier_ones_of_its_own_example():
    mask = block_mask(torch.tensor([[0, 1, 0, 0]]), torch.tensor([3]))
    assert mask.dtype == torch.float32
    assert (mask == 0).int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]]]


def test_the_first_token_of_an_example_is_predicted_by_nothing(tmp_path, words):
    packed = answers(tmp_path, words, [(2, 2), (1, 1)], 16, packing=True, settings=DataSettings(loss_on="all"))
    (row,) = packed.rows
    assert [at for at, label in enumerate(row["labels"]) if label == -100] == [0, 5]


def test_packed_rows_that_lost_their_positions_are_refused(words):
    with pytest.raises(InputError, match="packed examples need position_ids, which the model does not take"):
        CausalCollator(words)([{"input_ids": [1], "labels": [1]}])


def test_packed_rows_are_padded_with_what_counts_for_nothing(words):
    rows = [
        {"input_ids": [3, 4, 5], "labels": [-100, 4, 5], "position_ids": [0, 1, 2]},
        {"input_ids": [6], "labels": [6], "position_ids": [0]},
    ]
    batch = CausalCollator(words)(rows)
    assert batch["labels"].tolist() == [[-100, 4, 5], [6, -100, -100]]
    assert batch["input_ids"][1].tolist() == [6, *[words.pad_token_id] * 2]
    assert batch["attention_mask"].shape == (2, 1, 3, 3)
