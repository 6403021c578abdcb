"""What a template leaves out is refused by name."""

import json

import pytest

from spectra import InputError
from tests.trainer.data.examples import said
from trainer.data.chat.proof import require_tools, require_written, spoken, thought_of


def call(**arguments):
    return {"type": "function", "function": {"name": "look", "arguments": arguments}}


def test_what_is_said_follows_the_thought():
    assert spoken(" <think>so</think>\n\nb ") == spoken("b") == "b"
    assert thought_of(said("assistant", "b", reasoning_content=" so ")) == "so"
    assert thought_of(said("assistant", "b")) == ""


@pytest.mark.parametrize("text", ["x b c y", "x b c"])
def test_content_has_to_stand_but_for_blanks_around_it(text):
    require_written(said("user", " b c\n"), 0, text, learned=False)
    require_written(said("assistant", "<think>so</think> b c"), 0, text, learned=True)
    with pytest.raises(InputError, match=r"does not write what turn 3 \(user\) says"):
        require_written(said("user", "b d"), 3, text, learned=False)


def test_a_thought_beside_the_content_has_to_stand_where_it_is_learned():
    turn = said("assistant", "b", reasoning_content="so")
    require_written(turn, 1, "so b", learned=True)
    require_written(turn, 1, "b", learned=False)
    with pytest.raises(InputError, match=r"does not write what turn 1 \(assistant\) thinks \(`reasoning_content`\)"):
        require_written(turn, 1, "b", learned=True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"at": 'a "list"'}, 'look {"at": "a \\"list\\""}'),
        ({"at": 'a "list"'}, 'look at=a "list"'),
        ({"at": "é"}, 'look {"at": "\\u00e9"}'),
        ({"deep": {"n": [1, 2.5, True, None]}}, 'look {"deep": {"n": [1, 2.5, true, null]}}'),
        ({"deep": {"n": [1, 2.5, True, None]}}, "look(deep={'n': [1, 2.5, True, None]})"),
        ({}, "look"),
    ],
)
def test_calls_have_to_stand_in_any_notation(arguments, text):
    turn = said("assistant", "", tool_calls=[call(**arguments)])
    require_written(turn, 1, text, learned=True)
    with pytest.raises(InputError, match=r"calls \(`tool_calls`: look\)"):
        require_written(turn, 1, text.replace("look", "see"), learned=True)


def test_tools_have_to_be_named():
    tools = json.dumps([{"type": "function", "function": {"name": "look"}}])
    require_tools(tools, "you may look")
    require_tools("", "")
    with pytest.raises(
        InputError, match="does not write the tool 'look' of `tools`; use another template, or write the tools into"
    ):
        require_tools(tools, "you may see")
