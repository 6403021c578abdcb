"""A conversation under a template: each beginning is rendered once, and answers begin where no token is cut in two."""

import pytest

from spectra import InputError
from tests.trainer.data.examples import CHATML, bytewise, said, turns
from trainer.data.chat.stops import Stops
from trainer.data.chat.talk import Talk, marked_turn, parting
from trainer.data.chat.template import Rendered, Template, Way
from trainer.settings import DataSettings


def talk_of(messages, template=CHATML):
    return Talk(messages, "", Template(bytewise(template), DataSettings()), Way())


def test_every_beginning_is_rendered_once(monkeypatch):
    counted, render = [], Template.render

    def counting(self, messages, *rest):
        counted.append(len(messages))
        return render(self, messages, *rest)

    monkeypatch.setattr(Template, "render", counting)
    talk = talk_of(turns("a", "b", "c", "d"))
    for _ in range(2):
        talk.require_whole()
        assert talk.told(1).text.startswith(talk.asked(1).text)
    assert sorted(counted) == [1, 2, 3, 4]


def test_what_stood_before_an_answer_is_the_last_that_somebody_else_said():
    talk = talk_of([said("user", "a"), said("assistant", "b"), said("tool", "<think>x</think>c"), said("assistant", "d")])
    assert (talk.before(1), talk.before(3)) == ("a", "c")


def test_turns_that_are_only_read_have_to_stand():
    silent = CHATML.replace("in messages", "in messages[1:]")
    with pytest.raises(InputError, match=r"what turn 0 \(user\) says"):
        talk_of(turns("question", "b"), silent).require_whole()


@pytest.mark.parametrize(
    ("asked", "told", "place"),
    [
        ("U: a\nA: <think>", "U: a\nA: b", "U: a\nA:"),
        ("<u>a<m>\n<think>", "<u>a<m>\n<thought>", "<u>a<m>\n"),
        ("[u]a[m]x", "[u]a[m]y", "[u]a[m]"),
        ("U: question A: x", "U: question A: y", "U: question A:"),
        ("U: question A x", "U: question A y", "U: question"),  # no token's edge behind what was said: right behind it
    ],
)
def test_two_renderings_part_where_no_token_is_cut_in_two(asked, told, place):
    assert told[: parting(asked, told, ["question"])] == place


def test_marks_of_earlier_turns_are_not_those_of_this_one():
    turn = marked_turn(Rendered("aXbYcZ", [(1, 2), (3, 4), (5, 6)]), 1, Stops(bytewise()))
    assert [(part.text, part.trained) for part in turn.parts] == [("aXb", False), ("Y", True), ("c", False), ("Z", True)]
    assert marked_turn(Rendered("aX", [(1, 2)]), 1, Stops(bytewise())) is None
