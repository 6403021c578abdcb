"""A chat template as a run uses it: its options, its day, and the ways in which it is given messages."""

import datetime

import pytest

from spectra import InputError
from tests.trainer.data.examples import CHATML, bytewise, said, talk, turns
from trainer.data.chat import segments
from trainer.data.chat.template import Template, Way, ways_for
from trainer.settings import DataSettings

DATED = "{{ strftime_now('%d %b %Y') }}|" + CHATML
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "list"}}}


USUAL = Way()


def rendered(template, messages, settings=None, tools="", asks=False, way=USUAL):
    return Template(bytewise(template), settings or DataSettings()).render(messages, tools, asks, way).text


def test_it_writes_what_the_library_writes():
    tokenizer = bytewise(CHATML)
    messages = turns("a", "b", system="c")
    bare = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    for asks in (False, True):
        assert rendered(CHATML, messages, asks=asks) == tokenizer.apply_chat_template(
            bare, tokenize=False, add_generation_prompt=asks
        )


def test_the_day_is_the_one_that_was_fixed():
    assert rendered(DATED, turns("a"), DataSettings(template_date="2026-01-31")).startswith("31 Jan 2026|")
    assert rendered(DATED, turns("a")).startswith(datetime.date.today().strftime("%d %b %Y"))
    assert Template(bytewise(DATED), DataSettings(template_date="2026-01-31")).day == "2026-01-31"
    assert Template(bytewise(CHATML), DataSettings(template_date="2026-01-31")).day == ""


def test_a_day_that_cannot_be_fixed_is_refused():
    with pytest.raises(InputError, match="asks for the time in a way that would change during a run"):
        rendered("{% set f = '%d' %}{{ strftime_now(f) }}" + CHATML, turns("a"))


@pytest.mark.parametrize("draw", ["{{ ['a', 'b'] | random }}", "{{ lipsum(1) }}"])
def test_a_template_that_draws_at_random_is_refused(draw):
    with pytest.raises(InputError, match="draws at random"):
        rendered(draw + CHATML, turns("a"))


def test_options_are_given_to_the_template():
    template = "{{ 'deep' if enable_thinking else 'shallow' }}{{ tone }}" + CHATML
    settings = DataSettings(template_option="enable_thinking=false,tone=dry")
    assert rendered(template, turns("a"), settings).startswith("shallowdry")


def test_the_ways_that_make_no_difference_are_left_out():
    assert len(list(ways_for(turns("a", "b")))) == 2
    assert len(list(ways_for([said("assistant", "a", reasoning_content="b")]))) == 6
    assert len(list(ways_for([said("assistant", "a", tool_calls=[CALL])]))) == 4


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_a_thought_is_given_under_the_name_that_the_template_has(key):
    template = CHATML.replace(
        "{{ message['content'] }}", "{% if message." + key + " %}[{{ message." + key + " }}]{% endif %}{{ message['content'] }}"
    )
    (example,) = segments(talk(said("user", "a"), said("assistant", "b", reasoning_content="so")), bytewise(template))
    assert example[-1].text == "[so]b<|im_end|>"


@pytest.mark.parametrize(
    ("written", "text"), [("{{ call.arguments | tojson }}", '{"at": "list"}'), ("{{ call.arguments + '!' }}", '{"at": "list"}!')]
)
def test_arguments_are_given_as_an_object_or_as_text(written, text):
    template = CHATML.replace(
        "{{ message['content'] }}",
        "{{ message['content'] }}{% for call in message.tool_calls or [] %}{% set call = call.function %}{{ call.name }}"
        + written
        + "{% endfor %}",
    )
    (example,) = segments(talk(said("user", "a"), said("assistant", "", tool_calls=[CALL])), bytewise(template))
    assert example[-1].text == f"look{text}<|im_end|>"


def test_tools_are_given_to_the_template():
    template = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + CHATML
    tools = '[{"type": "function", "function": {"name": "look"}}]'
    assert rendered(template, turns("a"), tools=tools).startswith("look <|im_start|>")
