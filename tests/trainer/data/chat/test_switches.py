"""Thinking switches, set so that answers begin as they are asked for."""

import time

import pytest

from spectra import InputError
from tests.trainer.data.examples import CHATML, bytewise, said, talk, turns
from trainer.data.chat.bounded import bounded
from trainer.data.chat.switches import switch_for
from trainer.settings import DataSettings

# As reasoning models have it: a thought is asked for unless it is switched off, and answers without one get an empty one.
ASKS = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}{% endif %}",
)
ANSWERS = (
    "{% if message.role == 'assistant' and '<think>' not in message.content %}<think></think>{% endif %}{{ message['content'] }}"
)
SWITCHED = ASKS.replace("{{ message['content'] }}", ANSWERS)
PLAIN, THOUGHT = talk(*turns("a", "b")), talk(*turns("a", "<think>\nso</think>b"))


@pytest.mark.parametrize(
    ("rows", "option"),
    [
        ([PLAIN], "enable_thinking=false"),
        ([THOUGHT], ""),
        ([PLAIN, PLAIN, THOUGHT], "enable_thinking=false"),
        ([PLAIN, THOUGHT, THOUGHT], ""),
    ],
)
def test_the_switch_is_set_for_what_most_answers_begin_with(rows, option):
    assert switch_for(rows, bytewise(SWITCHED), DataSettings()) == option


def test_a_switch_that_is_given_stays():
    assert switch_for([PLAIN], bytewise(SWITCHED), DataSettings(template_option="enable_thinking=true")) == ""


def test_templates_without_a_switch_get_none():
    assert switch_for([PLAIN], bytewise(CHATML), DataSettings()) == ""
    alone = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    assert switch_for([PLAIN], bytewise(alone), DataSettings()) == ""


def test_a_template_that_never_ends_is_waited_for_once(monkeypatch):
    monkeypatch.setattr("trainer.data.chat.template.bounded", lambda: bounded(0.3, 2**28))
    endless = SWITCHED + "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    begun = time.monotonic()
    with pytest.raises(InputError, match="takes seconds or a gigabyte"):
        switch_for([PLAIN] * 64, bytewise(endless), DataSettings())
    assert time.monotonic() - begun < 5


def test_rows_that_the_template_refuses_are_left_to_be_refused_later():
    silent = SWITCHED.replace("in messages", "in messages[1:]")
    assert switch_for([talk(said("user", "what?"), said("assistant", "b"))], bytewise(silent), DataSettings()) == ""
