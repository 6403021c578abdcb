"""Well-known data sets are read as their publishers say, or refused by name."""

import datasets
import pyarrow
import pytest

from spectra import InputError
from tests.trainer.data.formats.public_schemas import EVALUATED, TRAINED
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", [*TRAINED, *EVALUATED])
def test_a_public_data_set_is_read_or_refused_by_name(tmp_path, name, suffix):
    row, expected = (TRAINED | EVALUATED)[name]
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        write_rows(path, [row])
    else:
        try:
            datasets.Dataset.from_list([row]).to_parquet(path)
        except pyarrow.ArrowInvalid:
            pytest.skip("a table's column has one type, and the row's has two")
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read_texts(path, evaluation=name in EVALUATED)
        return
    assert read_texts(path, evaluation=name in EVALUATED).rows.to_list() == [expected | {"row": 1}]


def test_there_are_enough_of_them():
    assert len(TRAINED) + len(EVALUATED) >= 31 + 20


def test_class_names_beside_the_numbers_are_used(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])})
    datasets.Dataset.from_list([{"text": "t", "label": 1}, {"text": "u", "label": 0}], features=features).to_parquet(
        tmp_path / "d.parquet"
    )
    assert read_texts(tmp_path / "d.parquet").labels == ("glad", "sad")
    unknown = datasets.Dataset.from_list([{"text": "t", "label": -1}], features=features)
    unknown.to_parquet(tmp_path / "u.parquet")
    with pytest.raises(InputError, match="row 1: label is missing"):
        read_texts(tmp_path / "u.parquet")
