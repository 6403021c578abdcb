"""Multiple-choice questions under the forms that data sets give them."""

import json

import pytest

from spectra import InputError
from trainer.data.formats import layout_of

ASKED = {"prompt": "the file", "choices": ["reads", "does"], "answer": 1}


def canonical(row):
    return layout_of(list(row), row, evaluation=True).canonical(row)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "the file", "choices": {"text": ["reads", "does"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "the file", "choices": {"text": ["reads", "does"], "label": ["1", "2"]}, "answerKey": "2"},
        {"ctx": "the file", "endings": ["reads", "does"], "label": "1", "ctx_a": "the"},
        {"goal": "the file", "sol1": "reads", "sol2": "does", "label": 1},
        {"question": "the file", "mc1_targets": {"choices": ["reads", "does"], "labels": [0, 1]}},
        {
            "inputs": "the file",
            "targets": ["does"],
            "multiple_choice_targets": ["reads", "does"],
            "multiple_choice_scores": [0, 1],
        },
        {"question": "the file", "options": ["reads", "does"], "answer": "B", "answer_index": 1},
    ],
)
def test_questions_are_read_in_many_forms(row):
    assert canonical(row) == ASKED


def test_choices_that_their_publisher_counts_from_one_are():
    row = {"context": "a", "question": "the file", "answerA": "reads", "answerB": "does", "answerC": "no", "label": "2"}
    assert canonical(row) == {"prompt": "a\n\nthe file", "choices": ["reads", "does", "no"], "answer": 1}
    row = {"question": "the file", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d"}
    assert canonical(row) == {"prompt": "the file", "choices": ["a", "b", "c", "d"], "answer": 3}


def test_two_right_answers_are_refused():
    with pytest.raises(InputError, match=r"mc1_targets is \[1, 1\]; give the index"):
        canonical({"question": "the file", "mc1_targets": {"choices": ["reads", "does"], "labels": [1, 1]}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a"]}, r"choices are \['a'\]; give a list of at least two texts"),
        ({"choices": ["a", ""]}, r"choices are \['a', ''\]; give a list"),
        ({"choices": "a or b"}, "choices are 'a or b'; give a list"),
        ({"choices": None}, "choices are None; give a list"),
        ({"answer": 2}, "answer is 2; give the index of the right choice, from 0, its letter, or its text"),
        ({"answer": -1}, "answer is -1; give the index"),
        ({"answer": "neither"}, "answer is 'neither'; give the index"),
        ({"answer": 0.5}, "answer is 0.5; give the index"),
        ({"prompt": " "}, "prompt is ' '; it must be text"),
    ],
)
def test_questions_that_nobody_can_answer_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        canonical(ASKED | change)


def test_choices_that_are_broken_json_are_refused():
    with pytest.raises(InputError, match="choices is '\\[reads, does'; it begins as JSON and is none"):
        canonical(ASKED | {"choices": "[reads, does"})


@pytest.mark.parametrize("answer", [1, "1", "does", "B", "(b)"])
def test_an_answer_is_an_index_or_the_text_of_a_choice(answer):
    assert canonical(ASKED | {"answer": answer}) == ASKED


def test_a_text_that_looks_like_an_index_is_a_text_first():
    row = {"prompt": "how many", "choices": ["2", "0"], "answer": "0"}
    assert canonical(row)["answer"] == 1


def test_choices_of_a_csv_file_are_a_list_written_as_json():
    row = ASKED | {"choices": json.dumps(ASKED["choices"]), "answer": "0"}
    assert canonical(row) == ASKED | {"answer": 0}
