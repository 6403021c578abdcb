import os
from pathlib import Path

import pytest

from spectra import InputError
from spectra.core.files import read_json, require_apart, require_place, require_writable, write_atomic


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


def test_a_file_appears_with_the_folders_above_it(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "x.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00\xff"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.bin"]


def test_a_place_is_refused_before_anything_is_made_there(tmp_path):
    assert require_writable(tmp_path / "new" / "x.json") == (tmp_path / "new" / "x.json").resolve()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"'\.?' is no file name"):
        require_writable("")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": [1, 2]\n, "b" 3}', r"x.json:2: not JSON: Expecting ':' delimiter"),
        (b'{"a": "\xff"}', r"x.json: not UTF-8 text \(byte 7\)"),
        (None, r"x.json: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "x.json")


def test_json_is_read_as_it_stands(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "x.json") == {"a": [1, None]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "number NaN is not JSON; what is unknown is written as null"),
        ('{"a": 1e400}', r"number 1e400 is not JSON"),
        ('{"a": ' + "9" * 400 + "}", r"number 9{12}\.\.\. of 400 digits is too large"),
        ('{"a": ' + "9" * 5000 + "}", r"number 9{12}\.\.\. of 5000 digits is too large"),
        ('{"a": "\\ud800"}', r"a text holds half a character, '\\ud800'; remove it"),
        ("[" * 100_000, "brackets are nested too deeply to be read|not JSON"),
    ],
)
def test_documents_are_strict_json(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "a.json", finite=True)
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00", "b": 1e308, "c": 9223372036854775807}')
    assert read_json(tmp_path / "a.json", finite=True) == {"a": "😀", "b": 1e308, "c": 2**63 - 1}


def test_what_other_programs_wrote_may_be_looser(tmp_path):
    (tmp_path / "a.json").write_text('{"model_max_length": 1000000000000000019884624838656, "eps": Infinity}')
    assert read_json(tmp_path / "a.json") == {"model_max_length": 1000000000000000019884624838656, "eps": float("inf")}
    (tmp_path / "a.json").write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(InputError, match="holds a whole number of thousands of digits"):
        read_json(tmp_path / "a.json")


def test_outputs_are_kept_apart_from_inputs_and_from_each_other(tmp_path):
    (tmp_path / "in").write_text("read")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "twin").hardlink_to(tmp_path / "in")
    require_apart({"output": tmp_path / "out", "csv": None}, [tmp_path / "in"])
    for name in ("in", "link", "twin", "./in"):
        with pytest.raises(InputError, match=r"`output` .*: would replace .*in, which is read"):
            require_apart({"output": tmp_path / name}, [tmp_path / "in"])
    with pytest.raises(InputError, match=r"`csv` .*: is also the file of `output`"):
        require_apart({"output": tmp_path / "a", "csv": tmp_path / "b" / ".." / "a"}, [])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_place_that_takes_no_file_is_refused_before_the_work_even_for_root():
    with pytest.raises(InputError, match=r"/proc/x: cannot write: /proc is not writable"):
        require_place("/proc/x")
