"""Tokens on disk: found again by what they were made of, and by nothing else."""

import datasets
import pytest

from spectra import InputError
from tests.trainer.data.examples import bytewise, words
from tests.trainer.examples import write_rows
from trainer.data import storage
from trainer.data.dataset import read_texts
from trainer.data.fitting import Encoded
from trainer.data.storage import on_disk, stored
from trainer.data.tokenize import tokenise
from trainer.settings import DataSettings

MADE = [Encoded([1, 2, 3], [-100, 2, 3]), Encoded([], []), Encoded([4, 5], [-100, 5], cut=True), Encoded([6], [6])]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "LEAST_KEPT", 0)
    return tmp_path / "cache" / "tokens"


def fail():
    raise AssertionError("made again")


def test_examples_come_back_as_they_were_and_what_has_no_label_is_counted():
    found = stored("", lambda: MADE)
    assert found.rows.to_list() == [
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]},
        {"input_ids": [4, 5], "labels": [-100, 5], "attention_mask": [1, 1]},
    ]
    assert (found.made, found.truncated, found.dropped) == (4, 1, 2)


def test_what_was_made_is_found_by_its_key(cache):
    made = stored("a", lambda: MADE)
    again = stored("a", fail)
    assert again.rows.to_list() == made.rows.to_list()
    assert again[1:] == made[1:]
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(AssertionError, match="made again"):
        stored("b", fail)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b'{"made": 4}'])
@pytest.mark.parametrize("suffix", [".arrow", ".json"])
def test_what_is_damaged_is_made_again(cache, damage, suffix):
    stored("a", lambda: MADE)
    next(cache.glob(f"*{suffix}")).write_bytes(damage)
    assert len(stored("a", lambda: MADE).rows) == 2


def test_the_oldest_go_when_room_is_short(cache, monkeypatch):
    monkeypatch.setattr(storage, "MOST_KEPT", 3000)
    for key in "abcd":
        stored(key, lambda: MADE)
    assert sum(file.stat().st_size for file in cache.glob("*.arrow")) <= 3000
    stored("d", fail)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LORAPLAN_CACHE", str(tmp_path / "file"))
    assert len(stored("a", lambda: MADE).rows) == 2


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "new_folder", lambda: tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere: tokens cannot be kept there"):
        stored("", lambda: MADE)


def test_rows_are_kept_with_their_types():
    features = datasets.Features({"text": datasets.Value("string"), "row": datasets.Value("int64")})
    rows = [{"text": "a", "row": 1}, {"text": "b", "row": 2}]
    assert on_disk(iter(rows), features).to_list() == rows


@pytest.mark.parametrize(
    "change",
    [
        {"loss_on": "all"},
        {"join": "space"},
        {"turns": "last"},
        {"template_option": "a=b"},
        "content",
        "length",
        "tokenizer",
        "code",
        "draw",
    ],
)
def test_everything_that_tokens_depend_on_makes_them_anew(tmp_path, cache, change, monkeypatch):
    path = write_rows(tmp_path / "p.jsonl", [{"prompt": "a ", "completion": "b"}, {"prompt": "c", "completion": "d"}])
    texts, tokenizer, length = read_texts(path), bytewise(), 16
    tokenise(texts, tokenizer, length)
    tokenise(read_texts(path), bytewise(), length)
    assert len(list(cache.glob("*.arrow"))) == 1
    if change == "content":
        texts = read_texts(write_rows(path, [{"prompt": "a ", "completion": "e"}]))
    elif change == "tokenizer":
        tokenizer = words()
    elif change == "draw":
        texts.rows._fingerprint = texts.rows.select([1])._fingerprint
    elif change == "code":
        monkeypatch.setattr("trainer.data.tokenize._code", lambda: "another release")
    elif change == "length":
        length = 15
    settings = DataSettings(**change) if isinstance(change, dict) else None
    tokenise(texts, tokenizer, length, settings=settings)
    assert len(list(cache.glob("*.arrow"))) == 2
