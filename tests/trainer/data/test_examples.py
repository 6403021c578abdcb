import datasets
import pytest

from trainer.data.examples import Examples, Texts
from trainer.data.formats import FORMATS


def texts(name, rows):
    return Texts(path="file", format=name, rows=datasets.Dataset.from_list(rows))


@pytest.mark.parametrize("name", FORMATS)
def test_the_task_is_what_a_run_learns_from_the_format(name):
    found = texts(name, [{"text": "a"}])
    assert found.task == ("classification" if "classification" in name else "causal")
    assert found.asks == (name == "multiple-choice")


def test_labels_are_distinct_and_sorted():
    rows = [{"text": "x", "label": label} for label in ("b", "10", "a", "b", "9")]
    assert texts("classification", rows).labels == ("10", "9", "a", "b")


def test_packed_rows_are_known_by_their_positions():
    alone = {"input_ids": [[1]], "labels": [[1]], "attention_mask": [[1]]}
    packed = {"input_ids": [[1]], "labels": [[1]], "position_ids": [[0]]}
    made = [Examples(task="causal", rows=datasets.Dataset.from_dict(columns), truncated=0) for columns in (alone, packed)]
    assert [examples.packed for examples in made] == [False, True]
    assert made[0].dropped == 0
