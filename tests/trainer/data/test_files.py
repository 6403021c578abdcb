"""Dataset files as they are, and every fault of one named with its line."""

import bz2
import gzip
import json
import lzma
import os
import shutil
from pathlib import Path

import pandas
import pyarrow
import pytest

from spectra import InputError
from trainer.data.dataset import read_texts
from trainer.data.files import content_sha256, records

ROWS = [{"text": "a", "label": "x"}, {"text": "b\u2028c", "label": 2, "more": [1, {"deep": None}]}]


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_json_is_read_as_it_is(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    for mark in ("", "\ufeff"):
        path.write_text(mark + "\n\n".join(map(json.dumps, ROWS)) + "\r\n", encoding="utf-8")
        assert list(records(path)) == ROWS
    if ending == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
        assert list(records(path)) == ROWS


def test_csv_and_parquet_are_read_as_they_are(tmp_path):
    (tmp_path / "data.csv").write_text('\ufefftext,label\n"a, ""b""\nc",01\n\nNA,\n', encoding="utf-8")
    assert list(records(tmp_path / "data.csv")) == [{"text": 'a, "b"\nc', "label": "01"}, {"text": "NA", "label": ""}]
    pandas.DataFrame(ROWS[:1] * 2500).to_parquet(tmp_path / "data.parquet")
    assert list(records(tmp_path / "data.parquet")) == ROWS[:1] * 2500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b"null\n", r"d\.jsonl:1: expected an object, one example, found NoneType"),
        ("d.jsonl", b'{"text": "a"}\n\n5\n', r"d\.jsonl:3: expected an object, one example, found int"),
        ("d.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"d\.jsonl:2: not UTF-8 text \(byte 13\)"),
        ("d.jsonl", b'{"text": "a"}\n{"text": NaN}\n', r"d\.jsonl:2: not JSON: NaN is no number"),
        ("d.jsonl", b'{"text": 1' + b"0" * 5000 + b"}\n", r"d\.jsonl:1: not JSON: Exceeds the limit"),
        ("d.jsonl", b"[" * 100_000, r"d\.jsonl:1: (brackets are nested too deeply|not JSON)"),
        ("d.jsonl", gzip.compress(b"x" * 500, mtime=0), r"d\.jsonl:1: not UTF-8 text"),
        ("d.json", b'[{"text": "a"}, 3]', r"d\.json: example 2: expected an object"),
        ("d.json", b'[{"text": "a"},\n {"text" 3}]', r"d\.json: not JSON: .* at character 10 \(line 2\)"),
        ("d.csv", b"text,text\na,b\n", r"d\.csv:1: column 'text' is there twice"),
        ("d.csv", b"text,label\na,b\n\xff,c\n", r"d\.csv: not UTF-8 text"),
        ("d.csv", b'text,label\n"a"b,c\n', r"d\.csv:2: not CSV"),
        ("d.parquet", b"PAR1nothingPAR1", r"d\.parquet: not a readable Parquet file"),
        ("d.txt", b"a", r"cannot tell the format from '\.txt'; use \.jsonl, \.json, \.csv, \.parquet"),
        ("d.jsonl", b"", r"d\.jsonl: empty file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(records(tmp_path / name))
    assert len(str(caught.value)) < 400


NAMES = ["[abc].jsonl", "tr*in.jsonl", "tr?in.jsonl", "train[1].jsonl", "a::b.jsonl", "x$HOME.jsonl", "~.jsonl", "zip:x.jsonl",
         "{a,b}.jsonl", "a#b.jsonl", "s3:x.jsonl", "hf:x.jsonl", ".hidden.jsonl", "x%20y.jsonl", "a\nb.jsonl"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_that_path(tmp_path, monkeypatch, name):
    """No pattern, no address, no variable: other files beside it are not read."""
    monkeypatch.chdir(tmp_path)
    for other in ("a.jsonl", "train.jsonl", "trXin.jsonl", "b.jsonl"):
        (tmp_path / other).write_text('{"text": "other"}\n')
    (tmp_path / name).write_text('{"text": "mine"}\n')
    assert read_texts(name).rows["text"] == read_texts(tmp_path / name).rows["text"] == ["mine"]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    for name, what in (
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("folder", "no dataset file in this folder"),
        ("loop", "Too many"),
    ):
        with pytest.raises(InputError, match=f"{name}.jsonl: {what}"):
            read_texts(tmp_path / f"{name}.jsonl")


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "d.jsonl"
    for word in ("one", "two"):
        path.write_text(json.dumps({"text": word}) + "\n")
        os.utime(path, (1, 1))
        assert read_texts(path).rows["text"] == [word]


def test_a_parquet_file_that_claims_more_than_it_has_is_refused(tmp_path, monkeypatch):
    pandas.DataFrame([{"text": "a"}] * 100).to_parquet(tmp_path / "d.parquet")
    monkeypatch.setattr("trainer.data.files.MOST_ROWS_PER_BYTE", 0.01)
    with pytest.raises(InputError, match=r"d\.parquet: claims 100 rows in [\d,]+ bytes"):
        list(records(tmp_path / "d.parquet"))


def test_half_a_character_is_refused(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n{"text": "b\\ud800"}\n')
    with pytest.raises(InputError, match=r"d\.jsonl: row 2: text holds half a character"):
        read_texts(tmp_path / "d.jsonl")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.setattr("trainer.data.storage.new_folder", lambda: Path("/proc/nothing"))
    with pytest.raises(InputError, match=r"d\.jsonl: its examples cannot be kept in "):
        read_texts(tmp_path / "d.jsonl")


def test_reading_leaves_nothing_in_the_libraries_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    read_texts(tmp_path / "d.jsonl")
    assert not (tmp_path / "cache").exists()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


LINES = b'{"text": "a"}\n{"text": "b"}\n'


def packed(path, content):
    """A file packed as its ending says."""
    if path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(pyarrow.OSFile(str(path), "wb"), "zstd") as stream:
            stream.write(content)
        return path
    path.write_bytes({".gz": gzip, ".bz2": bz2, ".xz": lzma}[path.suffix].compress(content))
    return path


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
def test_packed_files_are_read_like_others(tmp_path, ending):
    wanted = [{"text": "a"}, {"text": "b"}]
    for kind, content in ((".jsonl", LINES), (".json", b'[{"text": "a"}, {"text": "b"}]'), (".csv", b"text\na\nb\n")):
        assert list(records(packed(tmp_path / f"d{kind}{ending}", content))) == wanted


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2", ".xz"])
def test_damaged_packed_files_are_named(tmp_path, ending):
    path = tmp_path / f"d.jsonl{ending}"
    for content in (b"nonsense", packed(path, LINES * 500).read_bytes()[:40]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"d\.jsonl\{ending}: not a readable \{ending} file"):
            list(records(path))


def test_a_list_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.files.MOST_BYTES", 100)
    with pytest.raises(InputError, match="a list of more than 100 bytes; write one example on each line"):
        list(records(packed(tmp_path / "d.json.gz", b"[" + b" " * 1000 + b"]")))


def test_a_folder_stands_for_the_files_in_it(tmp_path):
    for number in (1, 0):
        pandas.DataFrame([{"text": f"a{number}"}]).to_parquet(tmp_path / f"train-0000{number}-of-00002.parquet")
    (tmp_path / "README.md").write_text("")
    assert [record["text"] for record in records(tmp_path)] == ["a0", "a1"]
    assert content_sha256(tmp_path) == content_sha256(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").write_bytes((tmp_path / "train-00000-of-00002.parquet").read_bytes())
    with pytest.raises(InputError, match="holds the splits test and train; give the files of one"):
        list(records(tmp_path))


def test_a_data_set_on_the_hub_is_read_with_the_names_of_its_classes(monkeypatch):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])})
    asked = []

    def load(*given, **options):
        asked.append((given, options))
        return datasets.Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": -1}], features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(records(Path("hub:some/thing/part:train[:10%]"))) == [
        {"text": "a", "label": "glad"},
        {"text": "b", "label": None},
    ]
    assert asked == [(("some/thing", "part"), {"split": "train[:10%]"})]
    assert content_sha256(Path("hub:some/thing:train")) == content_sha256(Path("hub:some/thing:train"))


@pytest.mark.parametrize("address", ["hub:thing:train", "hub:some/thing", "hub:some/thing:", "hub:../x:train y"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="not the address of a data set; write hub:OWNER/NAME:SPLIT"):
        list(records(Path(address)))
