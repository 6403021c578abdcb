"""A training file in two parts."""

import pandas as pd
import pytest

from spectra import InputError
from tests.trainer.examples import read_rows, write_rows
from trainer.data.split import split


def test_a_label_that_is_nowhere_else_is_not_held_back(tmp_path):
    rows = [{"text": f"text {number}", "label": f"rare {number}" if number % 4 == 0 else "common"} for number in range(40)]
    write_rows(tmp_path / "data.jsonl", rows)
    train_part, held = (pd.read_json(path, lines=True) for path in split(tmp_path / "data.jsonl", tmp_path, 0))
    assert set(held["label"]) <= set(train_part["label"])
    assert len(train_part) + len(held) == 40


def test_the_parts_are_disjoint_complete_and_in_the_files_own_columns(tmp_path):
    rows = [{"prompt": f"what is {number}", "completion": str(number), "id": number} for number in range(50)]
    paths = split(write_rows(tmp_path / "data.jsonl", rows), tmp_path / "parts", 3)
    assert [path.name for path in paths] == ["3-train.jsonl", "3-validation.jsonl"]
    train, held = map(read_rows, paths)
    assert (len(train), len(held)) == (45, 5)
    assert sorted(train + held, key=lambda row: row["id"]) == rows


def test_the_same_file_is_split_in_the_same_way(tmp_path):
    data = write_rows(tmp_path / "data.jsonl", [{"text": f"text {number}"} for number in range(30)])
    one, other = ([path.read_bytes() for path in split(data, tmp_path / name)] for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize("count", [1, 19])
def test_too_few_examples_are_refused(tmp_path, count):
    data = write_rows(tmp_path / "few.jsonl", [{"text": "a"}] * count)
    with pytest.raises(InputError, match=rf"few\.jsonl: {count} examples are too few to keep a tenth for validation"):
        split(data, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
