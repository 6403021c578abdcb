import hashlib
import json
import math
from typing import Literal

import pytest
from pydantic import model_validator

from spectra import InputError
from spectra.core.documents import Document, Measured, Value


class Item(Value):
    name: str
    score: Measured


class Example(Document):
    kind: Literal["example"] = "example"
    items: tuple[Item, ...]


DOCUMENT = Example(items=(Item(name="b", score=math.nan), Item(name="a", score=0.1)))


def test_round_trip_keeps_every_bit(tmp_path):
    DOCUMENT.save(tmp_path / "x.json")
    again = Example.load(tmp_path / "x.json")
    assert again.to_json() == DOCUMENT.to_json()
    assert math.isnan(again.items[0].score)


def test_json_is_strict_sorted_and_one_item_per_line():
    text = DOCUMENT.to_json()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["items"][0]["score"] is None
    assert list(data) == sorted(data)
    assert '  {"name": "a", "score": 0.1}\n' in text


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        DOCUMENT.items = ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"x.json:1: not JSON"),
        ("[]", "expected a 'example' file, found kind None"),
        ('{"kind": "plan"}', "expected a 'example' file, found kind 'plan'"),
        (
            '{"kind": "example", "schema_version": 1, "items": []}',
            r"schema version 1 cannot be read by this loraplan \(it reads 2\); make the file again",
        ),
        ('{"kind": "example", "schema_version": 2}', "items: Field required"),
        ('{"kind": "example", "schema_version": 2, "items": [], "extra": 5}', "extra: Extra inputs are not permitted, got 5"),
        ('{"kind": "example", "schema_version": 2, "items": [{"name": 3, "score": 1}]}', r"items.0.name: .*got 3"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Example.load(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nope.json: No such file"):
        Example.load(tmp_path / "nope.json")


def test_the_hash_is_of_the_text(tmp_path):
    assert DOCUMENT.sha256() == hashlib.sha256(DOCUMENT.to_json().encode()).hexdigest()
    assert DOCUMENT.sha256() != DOCUMENT.model_copy(update={"items": ()}).sha256()


class Limited(Value):
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"low": 1, "high": "x"}, "form: high: Input should be a valid integer, unable to parse string as an integer, got 'x'"),
        ({"low": "x", "high": "y"}, r"form: low: .*, got 'x' \(and 1 more\)"),
        ({"low": 3, "high": 2}, "form: low 3 is above high 2"),
        ({"low": 1, "high": "x" * 200}, r"got 'x{76}\.\.\."),
    ],
)
def test_a_fault_is_told_with_its_source_its_place_and_its_value(data, message):
    with pytest.raises(InputError, match=message) as caught:
        Limited.checked(data, "form")
    assert "\n" not in str(caught.value)
    assert Limited.checked({"low": 1, "high": 2}, "form") == Limited(low=1, high=2)
