"""Conversations under the forms that data sets give them, and what a row must hold."""

import json

import pytest

from spectra import InputError
from tests.trainer.data.examples import BARE, TALK, said, talk, turns
from tests.trainer.examples import write_rows
from trainer.data.dataset import read_texts
from trainer.data.formats import layout_of
from trainer.data.formats.table import SYSTEM


def canonical(row):
    return layout_of(list(row), row).canonical(row)


@pytest.mark.parametrize("empty", [{}, {"input": ""}, {"input": None, "system": " ", "history": []}])
def test_what_is_optional_in_alpaca_may_be_missing(tmp_path, empty):
    texts = read_texts(write_rows(tmp_path / "a.jsonl", [{"instruction": "the", "output": "file"} | empty]))
    assert texts.rows[0]["messages"] == turns("the", "file")


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "system", "value": "be short"}, {"from": "human", "value": "what does it"},
                           {"from": "gpt", "value": "it reads"}, {"from": "User", "value": "the list"},
                           {"from": "assistant", "value": "no"}]},
        {"conversations": ["what does it", "it reads", "the list", "no"], "system": "be short"},
        {"conversation": [{"input": "what does it", "output": "it reads"}, {"input": "the list", "output": "no"}],
         "system_prompt": "be short"},
        {"messages": json.dumps(BARE["messages"])},
        {"messages": [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in BARE["messages"]]},
        {"prompt": BARE["messages"][:4], "completion": BARE["messages"][4:]},
    ],
)  # fmt: skip
def test_conversations_are_read_in_many_forms(row):
    found = canonical(row)
    wanted = [
        turn | {"learned": turn["learned"] and ("prompt" not in row or number == 4)}
        for number, turn in enumerate(TALK["messages"])
    ]
    assert found == talk(*wanted)


CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "list"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLED = talk(
    said("user", "what"), said("assistant", "", tool_calls=[CALL]), said("tool", "no"), said("assistant", "no list"),
    tools=json.dumps([TOOL]),
)  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "what"},
                      {"role": "assistant", "content": None,
                       "tool_calls": [CALL | {"function": {"name": "look", "arguments": '{"at": "list"}'}}]},
                      {"role": "tool", "content": "no"}, {"role": "assistant", "content": "no list"}],
         "tools": [TOOL], "parallel_tool_calls": False},
        {"messages": [{"role": "user", "content": "what"},
                      {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "list"}'}},
                      {"role": "function", "content": "no"}, {"role": "assistant", "content": "no list"}],
         "functions": [TOOL["function"]]},
        {"conversations": [{"from": "human", "value": "what"}, {"from": "function_call", "value": json.dumps(CALL["function"])},
                           {"from": "observation", "value": "no"}, {"from": "gpt", "value": "no list"}],
         "tools": json.dumps([TOOL["function"]])},
    ],
)  # fmt: skip
def test_calls_of_tools_are_read_in_many_forms(row):
    assert canonical(row) == CALLED


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_the_content_is_kept(key):
    row = {"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "no", key: "is it"}]}
    assert canonical(row) == talk(said("user", "what"), said("assistant", "no", reasoning_content="is it"))


def test_a_greeting_that_nobody_asked_for_is_read_and_not_learned():
    row = {"messages": [{"role": "assistant", "content": "hello"}, *BARE["messages"][1:3]]}
    assert canonical(row) == talk(said("assistant", "hello", learned=False), *turns("what does it", "it reads"))


def test_calls_as_answers_need_tools():
    row = {"query": "what", "answers": json.dumps([CALL["function"]]), "tools": json.dumps([TOOL["function"]])}
    assert canonical(row)["messages"] == [said("user", "what"), said("assistant", "", tool_calls=[CALL])]
    assert canonical({"query": "what", "response": "[1, 2]"}) == talk(*turns("what", "[1, 2]"))


def bad(column, *found):
    return {column: list(found)}


USER, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
HUMAN, GPT = {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    ("good", "row", "message"),
    [
        ({"text": "a"}, {"text": 3}, "row 2: text is 3; it must be text"),
        ({"text": "a", "label": "x"}, {"text": "b", "label": ""}, "row 2: label is missing"),
        ({"text": "a", "label": "x"}, {"text": "b", "label": ["x"]}, r"row 2: label is \['x'\]; a row must have one label"),
        (
            {"segments": [{"label": True, "text": "a"}]},
            {"segments": [{"text": "a"}]},
            r"row 2: segments\[0\] is {'text': 'a'}; it must",
        ),
        ({"segments": [{"label": True, "text": "a"}]}, {"segments": "a"}, "row 2: segments is 'a'; it must be a list"),
        (
            {"segments": [{"label": True, "text": "a"}]},
            {"segments": [{"label": False, "text": "a"}]},
            "row 2: segments has nothing",
        ),
        ({"query": "a", "response": "b"}, {"query": "a", "response": ""}, "row 2: response is ''; it must be text"),
        ({"query": "a", "response": "b"}, {"query": "a", "response": []}, "row 2: response is None; it must be text"),
        ({"chat": "USER: a ASSISTANT: b\nASSISTANT: c"}, {"chat": "hello"}, "row 2: chat is 'hello'; it must begin with USER:"),
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
        (
            bad("messages", USER, SAID),
            {"messages": None},
            "row 2: messages is None; it must be a list of {role, content} or {from, value}",
        ),
        (bad("messages", USER, SAID), {"messages": "hi"}, "row 2: messages is 'hi'; it must be a list"),
        (bad("messages", USER, SAID), bad("messages"), r"row 2: messages is \[\]; it must be a list"),
        (bad("messages", USER, SAID), bad("messages", "hi", SAID), r"row 2: messages\[0\] is 'hi'; it must be an object"),
        (bad("messages", USER, SAID), bad("messages", USER), "row 2: messages has no assistant turn among 1"),
        (
            bad("messages", USER, SAID),
            bad("messages", SAID, USER),
            "row 2: messages begins with the assistant's turn and has no other",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "clown", "content": "b"}),
            r"row 2: messages\[1\]: role is 'clown'; use one of system, developer, user, assistant, tool, or say by `role_map`",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, {"role": "assistant", "content": None}),
            r"row 2: messages\[1\]: content is None; it must be text",
        ),
        (
            bad("conversations", HUMAN, GPT),
            bad("conversations", HUMAN, {"from": 3, "value": "b"}),
            r"row 2: conversations\[1\]: from is 3; use one of",
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
        (bad("messages", USER, SAID), bad("messages", USER, SAID | {"reasoning": 3}), r"row 2: messages\[1\]: reasoning is 3"),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, SAID | {"tool_calls": [{"function": {}}]}),
            r"row 2: messages\[1\]: tool_calls\[0\] is {'function': {}}; a call must be an object with a name",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, SAID | {"function_call": {"name": "f", "arguments": "{nope"}}),
            r"row 2: messages\[1\]: function_call\[0\]: arguments is '{nope'; it begins as JSON and is none",
        ),
        (bad("messages", USER, SAID), bad("messages", USER, SAID) | {"tools": "hammer"}, "row 2: tools is 'hammer'; it must be"),
        (
            bad("messages", USER, SAID),
            bad("messages", USER, SAID) | {"tools": [{}]},
            r"row 2: tools\[0\] is {}; it must be an object",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAID),
            r"row 2: messages\[0\]: content\[0\] is of type image_url; images, sounds and videos cannot be learned from",
        ),
        (
            bad("messages", USER, SAID),
            bad("messages", {"role": "system", "content": "x"}, USER, SAID) | {"system": "y"},
            "row 2: system is 'y', and the first turn, a system turn too, 'x'; keep one of them",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, good, row, message):
    path = write_rows(tmp_path / "data.jsonl", [good, row])
    with pytest.raises(InputError, match=message) as caught:
        read_texts(path)
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", SYSTEM)
@pytest.mark.parametrize("own", [None, "be short"])
def test_a_system_turn_may_stand_in_a_column_of_its_own(tmp_path, column, own):
    bare = [{"role": turn["role"], "content": turn["content"]} for turn in turns("a", "b", system=own)]
    (read,) = read_texts(write_rows(tmp_path / "m.jsonl", [{"messages": bare, column: "be short"}])).rows.to_list()
    assert read["messages"] == turns("a", "b", system="be short")


@pytest.mark.parametrize(("flag", "value"), [("weight", 0), ("train", False), ("trainable", False)])
def test_a_turn_that_its_publisher_leaves_out_is_not_learned(tmp_path, flag, value):
    _, asked, answered, more, last = BARE["messages"]
    row = {"messages": [asked | {flag: value}, answered | {flag: value}, more, last | {flag: 1}]}
    (read,) = read_texts(write_rows(tmp_path / "m.jsonl", [row])).rows.to_list()
    assert [message["learned"] for message in read["messages"]] == [False, False, False, True]
