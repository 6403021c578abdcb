"""Well-known data sets are read as their publishers say, or refused by name."""

import os
import random

import datasets
import pyarrow
import pytest

from spectra import InputError
from tests.trainer.data.examples import CHATML, bytewise
from tests.trainer.data.formats.public_schemas import EVALUATED, TRAINED
from tests.trainer.examples import write_rows
from trainer.data.chat import segments
from trainer.data.dataset import read_texts
from trainer.data.formats import FORMATS, layout_of


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


TOOLED = CHATML.replace(
    "{{ message['content'] }}",
    "{{ message['reasoning_content'] }}{{ message['content'] }}{% for call in message['tool_calls'] or [] %}"
    "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}",
).replace("{% for m", "{{ tools | tojson }}{% for m", 1)
ODD = [
    None,
    3,
    -1,
    0.5,
    True,
    "",
    " ",
    "[",
    "{",
    "[1]",
    "{}",
    "x" * 5000,
    [],
    [None],
    [[]],
    ["a", 1],
    {},
    {"a": None},
    {"role": "user"},
]


def mutated(value, rng):
    """The value with one of its parts replaced, taken away or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        return value | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] + value[: rng.randrange(2)]
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


@pytest.mark.parametrize("seed", range(int(os.environ.get("ROWS", "300"))))
def test_a_damaged_row_is_read_or_refused_in_one_line(seed):
    rng = random.Random(seed)
    name = rng.choice([*TRAINED, *EVALUATED])
    good = (TRAINED | EVALUATED)[name][0]
    bad = mutated(mutated(good, rng) if rng.random() < 0.5 else good, rng)
    if not isinstance(bad, dict):
        return
    tokenizer = bytewise(rng.choice([CHATML, TOOLED, None]))
    try:
        row = layout_of(list(good), good, evaluation=name in EVALUATED).canonical(bad)
        examples = [] if {"text", "choices"} & row.keys() else segments(row, tokenizer)
    except InputError as fault:  # anything else fails the test
        refused = str(fault)
        assert refused.strip()
        return
    assert row.keys() == FORMATS[layout_of(list(good), good, evaluation=name in EVALUATED).format].becomes.keys()
    assert all(any(part.trained and part.text for part in example) for example in examples)
