import json

import pytest

from spectra import InputError
from trainer import demo


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_module_and_no_text_stands_in_both_files(corpus):
    train, test = (rows(path) for path in corpus)
    assert not {row["module"] for row in train} & {row["module"] for row in test}
    texts = [row["text"] for row in train + test]
    assert len(set(texts)) == len(texts)


def test_every_chapter_is_in_both_files(corpus):
    train, test = (rows(path) for path in corpus)
    assert {row["label"] for row in train} == {row["label"] for row in test} == set(demo.CHAPTERS)
    assert len(train) > 2000
    assert 0.15 < len(test) / (len(train) + len(test)) < 0.4


def test_the_corpus_does_not_change_between_calls(corpus, tmp_path):
    assert [path.read_bytes() for path in demo.write_corpus(tmp_path)] == [path.read_bytes() for path in corpus]


def test_a_python_without_sources_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_library", lambda: tmp_path)
    with pytest.raises(InputError, match="too few docstrings; the sources of the standard library are not installed"):
        demo.write_corpus(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_linked_under_a_readable_name(tmp_path):
    for _ in range(2):  # a second demo replaces the link
        link = demo.link_model(tmp_path)
    assert link.name == "all-MiniLM-L6-v2"
    assert (link / "model.safetensors").is_file()


def test_a_missing_model_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MODEL_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'loraplan\[demo\]'"):
        demo.link_model(tmp_path)
