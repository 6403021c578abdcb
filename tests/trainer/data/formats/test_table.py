"""The table of formats: how a file's columns say what its rows are, and what a row must hold."""

import json

import datasets
import pytest

from spectra import InputError
from tests.trainer.data.examples import TALK, turns
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.data.formats import FORMATS, NOT_GIVEN, NOT_HEARD, SYSTEM, detect, formats_help

ASKED = {"prompt": "the file", "choices": ["reads", "does"], "answer": 1}
CASES = {
    "classification": ({"text": "a", "label": 1, "extra": 3}, {"text": "a", "label": "1"}),
    "text": ({"text": "the file", "extra": None}, {"text": "the file"}),
    "completion": ({"prompt": "the", "completion": " file", "id": 7}, {"prompt": "the", "completion": " file"}),
    "messages": (TALK | {"text": "rendered"}, TALK),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "be short"},
                {"from": "human", "value": "what does it"},
                {"from": "gpt", "value": "it reads"},
                {"from": "user", "value": "the list"},
                {"from": "assistant", "value": "no"},
            ]
        },
        TALK,
    ),
    "alpaca": (
        {
            "instruction": "the",
            "input": "list",
            "output": "no",
            "system": "be short",
            "history": [["what does it", "it reads"]],
            "text": "rendered",
        },
        {"messages": turns("what does it", "it reads", "the\nlist", "no", system="be short")},
    ),
    "multiple-choice": (ASKED | {"id": 3}, ASKED),
}


def test_every_format_has_a_case():
    assert set(CASES) == set(FORMATS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", CASES)
def test_a_format_is_told_by_its_columns(tmp_path, name, suffix):
    row, canonical = CASES[name]
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list([row, row]).to_parquet(path)
    else:
        path.write_text(json.dumps([row, row]) if suffix == ".json" else json.dumps(row) + "\n" + json.dumps(row) + "\n")
    texts = read_texts(path, evaluation=name == "multiple-choice")
    assert texts.format == name
    assert texts.task == ("classification" if name == "classification" else "causal")
    assert texts.rows.to_list() == [canonical | {"row": 1}, canonical | {"row": 2}]


@pytest.mark.parametrize("empty", [{}, {"input": ""}, {"input": None, "system": " ", "history": []}])
def test_what_is_optional_in_alpaca_may_be_missing(tmp_path, empty):
    texts = read_texts(write_rows(tmp_path / "a.jsonl", [{"instruction": "the", "output": "file"} | empty]))
    assert texts.rows[0]["messages"] == turns("the", "file")


def bad(column, *found):
    return {column: list(found)}


USER, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    ("good", "row", "message"),
    [
        ({"text": "a"}, {"text": 3}, "row 2: text is 3; it must be text"),
        ({"text": "a", "label": "x"}, {"text": "b", "label": ""}, "row 2: label is missing"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "row 2: completion is None; it must be text"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}, "row 2: completion is ' '; it must be text"),
        ({"prompt": "a", "completion": "b"}, {"prompt": ["a"], "completion": "b"}, r"row 2: prompt is \['a'\]; it must"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}, "row 2: output is ''; it must be text"),
        ({"instruction": "a", "output": "b"}, {"instruction": None, "output": "b"}, "row 2: instruction is None"),
        (
            {"instruction": "a", "output": "b", "input": "c"},
            {"instruction": "a", "output": "b", "input": 3},
            "row 2: input is 3; it must be text or left out",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]]},
            {"instruction": "a", "output": "b", "history": [["c"]]},
            r"row 2: history is \[\['c'\]\]; it must be a list of \[user, assistant\] pairs",
        ),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]]},
            {"instruction": "a", "output": "b", "history": [["c", ""]]},
            "row 2: history pair 1: assistant is ''",
        ),
        (bad("messages", USER, SAID), {"messages": None}, "row 2: messages is None; it must be a list of {role, content}"),
        (bad("messages", USER, SAID), {"messages": "hi"}, "row 2: messages is 'hi'; it must be a list"),
        (bad("messages", USER, SAID), bad("messages"), r"row 2: messages is \[\]; it must be a list"),
        (bad("messages", USER, SAID), bad("messages", "hi"), r"row 2: messages\[0\] is 'hi'; it must be an object"),
        (bad("messages", USER, SAID), bad("messages", USER), "row 2: messages has no assistant turn among 1"),
        (bad("messages", USER, SAID), bad("messages", SAID, USER), "row 2: messages begins with the assistant's turn"),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "tool", "content": "b"}),
            r"row 2: messages\[1\]: role is 'tool'; use one of system, user, assistant",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "assistant", "content": None}),
            r"row 2: messages\[1\]: content is None; it must be text",
        ),
        (
            bad("conversations", HUMAN, GPT),
            bad("conversations", HUMAN, {"from": "bing", "value": "b"}),
            r"row 2: conversations\[1\]: from is 'bing'; use one of system, human, user, gpt, assistant",
        ),
        (
            bad("conversations", HUMAN, GPT),
            bad("conversations", HUMAN, {"from": "gpt", "value": 3}),
            r"row 2: conversations\[1\]: value is 3; it must be text",
        ),
        (bad("conversations", HUMAN, GPT), bad("conversations", HUMAN), "row 2: conversations has no assistant turn"),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, SAID | {"weight": 0.5}),
            r"row 2: messages\[1\]: weight is 0.5; it must be 0 or 1",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, SAID | {"weight": 0}),
            "row 2: messages has no assistant turn that is to be learned; remove the row",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER | {"train": True}, SAID),
            r"row 2: messages\[0\]: train is True, but only the assistant's turns are learned; use `loss_on` all",
        ),
        *(
            (
                bad("messages", USER, SAID),
                bad("messages", USER, SAID | {key: "think"}),
                rf"row 2: messages\[1\]: {key} is 'think'; it would be lost, so write it into content or remove the row",
            )
            for key in NOT_HEARD
        ),
        *(
            (bad("conversations", HUMAN, GPT), bad("conversations", HUMAN, GPT) | {key: "[{}]"}, rf"row 2: {key} is '\[{{}}\]'")
            for key in NOT_GIVEN
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", {"role": "system", "content": "x"}, USER, SAID) | {"system": "y"},
            "row 2: system is 'y', and another system turn 'x'; keep one of them",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, good, row, message):
    path = write_rows(tmp_path / "data.jsonl", [good, row])
    with pytest.raises(InputError, match=message) as caught:
        read_texts(path)
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a"]}, r"choices are \['a'\]; give a list of at least two texts"),
        ({"choices": ["a", ""]}, r"choices are \['a', ''\]; give a list"),
        ({"choices": "a or b"}, "choices are 'a or b'; give a list"),
        ({"choices": None}, "choices are None; give a list"),
        ({"answer": 2}, "answer is 2; give the index of the right choice, from 0, or its text"),
        ({"answer": -1}, "answer is -1; give the index"),
        ({"answer": "neither"}, "answer is 'neither'; give the index"),
        ({"answer": 0.5}, "answer is 0.5; give the index"),
        ({"prompt": " "}, "prompt is ' '; it must be text"),
    ],
)
def test_questions_that_nobody_can_answer_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        FORMATS["multiple-choice"].canonical(ASKED | change)


def test_choices_that_are_broken_json_are_refused():
    with pytest.raises(InputError, match="choices are '\\[reads, does'; give a list of at least two texts"):
        FORMATS["multiple-choice"].canonical(ASKED | {"choices": "[reads, does"})


@pytest.mark.parametrize("answer", [1, "1", "does"])
def test_an_answer_is_an_index_or_the_text_of_a_choice(answer):
    assert FORMATS["multiple-choice"].canonical(ASKED | {"answer": answer}) == ASKED


def test_a_text_that_looks_like_an_index_is_a_text_first():
    row = {"prompt": "how many", "choices": ["2", "0"], "answer": "0"}
    assert FORMATS["multiple-choice"].canonical(row)["answer"] == 1


def test_choices_of_a_csv_file_are_a_list_written_as_json():
    row = ASKED | {"choices": json.dumps(ASKED["choices"]), "answer": "0"}
    assert FORMATS["multiple-choice"].canonical(row) == ASKED | {"answer": 0}


@pytest.mark.parametrize("name", FORMATS)
def test_a_canonical_row_has_the_columns_that_the_table_says(name):
    row, _ = CASES[name]
    assert FORMATS[name].canonical(row).keys() == FORMATS[name].becomes.keys()
    assert detect([*FORMATS[name].columns, "other"], evaluation=True) == name


@pytest.mark.parametrize("column", SYSTEM)
@pytest.mark.parametrize("own", [None, "be short"])
def test_a_system_turn_may_stand_in_a_column_of_its_own(tmp_path, column, own):
    row = {"messages": turns("a", "b", system=own), column: "be short"}
    (read,) = read_texts(write_rows(tmp_path / "m.jsonl", [row])).rows.to_list()
    assert read["messages"] == turns("a", "b", system="be short")


@pytest.mark.parametrize(("flag", "value"), [("weight", 0), ("train", False), ("trainable", False)])
def test_a_turn_that_its_publisher_leaves_out_is_not_learned(tmp_path, flag, value):
    asked, answered, more, last = turns("a", "b", "c", "d")
    row = {"messages": [asked | {flag: value}, answered | {flag: value}, more, last | {flag: 1}]}
    (read,) = read_texts(write_rows(tmp_path / "m.jsonl", [row])).rows.to_list()
    assert [message["learned"] for message in read["messages"]] == [False, False, False, True]


def test_the_first_format_that_fits_wins():
    assert detect(["text", "messages"]) == "messages"
    assert detect(["text", "label", "messages"]) == "classification"
    assert detect(["prompt", "completion", "choices", "answer"]) == "completion"  # questions are not trained on
    assert detect(["prompt", "completion", "choices", "answer"], evaluation=True) == "multiple-choice"


def test_formats_are_listed_in_one_line():
    trained = "text and label; messages; conversations; instruction and output; prompt and completion; text"
    assert formats_help() == trained  # questions with choices are for evaluation only
