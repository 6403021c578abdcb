"""Rows of plain text, labels, prompts and segments."""

import pytest

from spectra import InputError
from trainer.data.formats.fields import Fields
from trainer.data.formats.texts import classification, completion, segments, text


@pytest.mark.parametrize(("label", "read"), [(0, "0"), (False, "False"), ("x", "x"), (-1, "-1")])
def test_labels_may_be_numbers(label, read):
    assert classification(Fields({"text": "a", "label": label})) == {"text": "a", "label": read}


def test_a_labels_name_goes_before_its_number():
    assert classification(Fields({"text": "a", "label": 1, "label_name": "good"}))["label"] == "good"
    assert classification(Fields({"text": "a", "label": 1, "label_name": None}))["label"] == "1"


def test_faults_name_the_column_and_not_the_field():
    with pytest.raises(InputError, match="review is None; it must be text"):
        text(Fields({"text": None}, {"text": "review"}))


def test_segments_may_be_json_text():
    row = Fields({"segments": '[{"text": "a", "label": true}]'})
    assert segments(row) == {"segments": [{"text": "a", "learned": True}]}


def test_prompts_and_completions_stand_as_they_are():
    assert completion(Fields({"prompt": " a ", "completion": "\nb"})) == {"prompt": " a ", "completion": "\nb"}
