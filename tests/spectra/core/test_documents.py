import json
import math
import os
from typing import Literal

import pytest

from spectra import InputError
from spectra.core.documents import Document, Measured, Value
from spectra.core.files import write_atomic


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
        ('{"kind": "example", "schema_version": 2, "items": []}', "schema version 2 cannot be read"),
        ('{"kind": "example", "schema_version": 1}', "items: Field required"),
        ('{"kind": "example", "schema_version": 1, "items": [], "extra": 5}', "extra: Extra inputs are not permitted, got 5"),
        ('{"kind": "example", "schema_version": 1, "items": [{"name": 3, "score": 1}]}', r"items.0.name: .*got 3"),
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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    target.write_text("old")

    def full_disk(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"x.json: cannot write: No space left on device"):
        write_atomic(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("target", "reason"), [("folder", "a folder"), ("fifo", "not a regular file"), ("file/below", "is a file")]
)
def test_only_regular_files_are_replaced(tmp_path, target, reason):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=reason):
        write_atomic(tmp_path / target, "x")


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_atomic(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
