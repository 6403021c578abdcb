"""What `plan data` finds in a file."""

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import write_rows
from trainer.preview.measure import measure
from trainer.settings import DataSettings


def pairs(*words):
    return [{"prompt": f"the file {word}", "completion": f" {word}"} for word in words]


@pytest.fixture
def model(tiny_llama):
    return open_checkpoint(tiny_llama)


def test_tokens_are_counted_as_training_counts_them(model, tmp_path):
    report = measure(model, write_rows(tmp_path / "p.jsonl", [row | {"id": 3} for row in pairs("read", "open", "read")]))
    assert (report.format, report.task, report.rows, report.examples) == ("completion", "causal", 3, 3)
    assert report.ignored == ("id",)
    assert report.duplicates == 1
    assert sum(one.examples for one in report.lengths) == 3
    learned = sum(part.tokens for shown in report.shown for part in shown.stretches if part.learned)
    other = sum(part.tokens for shown in report.shown for part in shown.stretches if not part.learned)
    assert (report.learned_tokens, report.other_tokens) == (learned, other)
    assert [shown.row for shown in report.shown] == [1, 2, 3]
    assert type(report).checked(report.model_dump(mode="json"), "itself") == report


def test_it_says_what_a_maximum_length_would_do(model, tmp_path):
    rows = [{"prompt": "the " * 20, "completion": " file"}, {"prompt": "the", "completion": " file" * 20}, *pairs("a")]
    report = measure(model, write_rows(tmp_path / "p.jsonl", rows), DataSettings(max_length=16))
    (cut,) = (one for one in report.cuts if one.max_length == 16)
    assert (cut.cut, cut.left_out) == (1, 1)


def test_rows_that_the_test_has_too_are_counted(model, tmp_path):
    train, test = (write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in (
        ("train", pairs("read", "open")),
        ("test", [*pairs("read"), {"prompt": "the file open", "completion": " no"}, *pairs("a")]),
    ))  # fmt: skip
    (same,) = measure(model, train, held_out=[test]).overlap
    assert (same.rows, same.prompts, same.of) == (1, 2, 3)
    with pytest.raises(InputError, match=r"to compare with: .*gone.jsonl"):
        measure(model, train, held_out=[tmp_path / "gone.jsonl"])


def test_labels_are_counted(model, tmp_path):
    rows = [{"text": "the file", "label": label} for label in ("b", "a", "b")]
    report = measure(model, write_rows(tmp_path / "l.jsonl", rows))
    assert (report.task, report.labels, report.learned_tokens, report.cuts) == ("classification", {"a": 1, "b": 2}, 0, ())


def test_questions_are_read_and_not_tokenised(model, tmp_path):
    report = measure(model, write_rows(tmp_path / "q.jsonl", [{"question": "a", "options": ["b", "c"], "answer": "B"}]))
    assert (report.task, report.rows, report.shown) == ("multiple-choice", 1, ())


def test_a_faulty_row_is_named(model, tmp_path):
    with pytest.raises(InputError, match="row 2: completion is None"):
        measure(model, write_rows(tmp_path / "p.jsonl", [*pairs("a"), {"prompt": "b"}]))
