"""YAML read as texts: nothing is converted, nothing is run, and no key stands twice."""

import pytest

from spectra import InputError
from spectra.core.yaml_texts import read_yaml


def written(tmp_path, text):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return path


def test_every_value_is_a_text(tmp_path):
    path = written(tmp_path, "a: 2020-13-45\nb: yes\nc: 1e-3\nd: [1, null]\ne: {f: 0x10}\ng:\n")
    assert read_yaml(path) == {"a": "2020-13-45", "b": "yes", "c": "1e-3", "d": ["1", "null"], "e": {"f": "0x10"}, "g": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"file.yaml: line 3: 'a' is there twice"),
        ("a:\n  b: 1\n  b: 2\n", r"file.yaml: line 3: 'b' is there twice"),
        ("- a\n", "not a mapping"),
        ("", "not a mapping"),
        ("a: [", "cannot be read"),
        ("a: *b", "cannot be read"),
    ],
)
def test_what_is_no_mapping_of_texts_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_yaml(written(tmp_path, text))


def test_a_tag_makes_no_object(tmp_path):
    path = written(tmp_path, f"a: !!python/object/apply:os.system ['touch {tmp_path}/mark']\n")
    assert isinstance(read_yaml(path)["a"], list)
    assert not (tmp_path / "mark").exists()
