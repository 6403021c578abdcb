"""The shortcut writes what the long way writes, or is not taken."""

import random

import pytest

from tests.trainer.data.examples import CHATML, REWRITES, bytewise, talk, turns
from trainer.data.chat.named import LIBRARY, names
from trainer.data.chat.skeleton import filled, looked_for, marked, pattern
from trainer.data.chat.writer import Writer
from trainer.settings import DataSettings

BITS = [
    "hello",
    "<think>",
    "</think>",
    "\n",
    " ",
    "/quiet",
    "<|im_end|>",
    "x",
    "Zq0",
    "é",
    "### Response:",
    "<b>",
    "]",
    "a",
    "user",
]
# What templates do to what is said: strip it, look into it, ask otherwise because of it.
STRIPS = CHATML.replace("message['content'] }}", "message['content'] | trim }}")
LOOKS = CHATML.replace("{{ message['content'] }}", "{{ message['content'].split('</think>')[-1] }}")
LISTENS = CHATML.replace(
    "assistant\n{% endif %}", "assistant\n{{ '<think></think>' if '/quiet' in messages[0].content }}{% endif %}"
)
ENDLESS = CHATML.replace("<|im_end|>\n", "\n")
TEMPLATES = {"chatml": CHATML, "rewrites": REWRITES, "strips": STRIPS, "looks": LOOKS, "listens": LISTENS, "endless": ENDLESS}
TEMPLATES |= {name: (LIBRARY / f"{name}.jinja").read_text() for name in names()}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_shortcut_writes_what_the_long_way_writes(name):
    rng, tokenizer = random.Random(name), bytewise(TEMPLATES[name])
    short, long = Writer(tokenizer, DataSettings()), Writer(tokenizer, DataSettings())
    long._looked_for = None
    taken = 0
    for _ in range(150):
        contents = [
            "".join(rng.choices(BITS, k=rng.randint(1, 4))) + "." + rng.choice(["", " ", "\n"])
            for _ in range(2 * rng.randint(1, 3))
        ]
        row = talk(*turns(*contents))
        taken += bool(short._shortcut(row["messages"], ""))
        assert short.segments(row) == long.segments(row), contents
    assert taken


def test_marks_become_numbers_and_numbers_what_is_said():
    messages = marked(turns("a", "b"))
    parts = pattern(f"<{messages[0]['content']}|{messages[1]['content']}>{messages[0]['content']}")
    assert parts == ["<", 0, "|", 1, ">", 0, ""]
    assert filled(parts, ["a", "Zq1qZ"]) == "<a|Zq1qZ>a"


def test_what_a_template_looks_for_is_found_in_its_source():
    found = looked_for(LISTENS + "{{ x.split('</think>') }}{{ y | replace('abc', '') }}{{ role == 'user' }}")
    assert all(found.search(text) for text in ("a /quiet", "</think>", "xabcx"))
    assert not found.search("user")
    assert looked_for("{% broken") is None
    assert looked_for("{% generation %}{% endgeneration %}") is None
