"""Prompts and conversations written out: exactly the answers are learned."""

import json
import logging
from dataclasses import replace

import pytest

from spectra import InputError
from tests.trainer.data.examples import BARE, CHATML, REFUSES, REWRITES, TALK, bytewise, said, talk, trained, turns, words
from tests.trainer.examples import write_rows
from trainer.data.chat import Segment, Writer, segments
from trainer.data.chat.bounded import bounded
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise
from trainer.settings import DataSettings

ALL = DataSettings(loss_on="all")


@pytest.mark.parametrize("make", [words, bytewise])
def test_the_loss_counts_exactly_the_assistants_turns(tmp_path, make):
    tokenizer = make(CHATML)
    texts = read_texts(write_rows(tmp_path / "m.jsonl", [BARE]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    stretches = [stretch.replace(" <|im_end|>", "<|im_end|>").strip() for stretch in trained(tokenizer, row)]
    assert stretches == ["it reads<|im_end|>", "no<|im_end|>"]
    whole = tokenizer.apply_chat_template(BARE["messages"], tokenize=True, return_dict=False)
    assert row["input_ids"] == whole[: len(row["input_ids"])]
    assert tokenizer.decode(whole[len(row["input_ids"]) :]).strip() == ""  # the line's end behind the last answer
    everything = tokenise(texts, tokenizer, 256, settings=ALL).rows[0]
    assert everything["labels"] == everything["input_ids"] == whole


def test_a_conversation_that_ends_in_a_question_is_used_without_it():
    (example,) = segments(talk(*turns("a", "b", "c")), bytewise(CHATML))
    assert "".join(part.text for part in example).endswith("assistant\nb<|im_end|>")
    assert segments(talk(*turns("a", "b")), bytewise(CHATML)) == [example]


def test_of_all_answers_the_last_alone_may_be_learned():
    for template in (CHATML, REWRITES, None):
        (example,) = segments(TALK, bytewise(template), DataSettings(turns="last"))
        assert [part.trained for part in example] == [False, True]
        assert example[-1].text.startswith(("no", "<think>no"))
        assert "it reads" in example[0].text


@pytest.mark.parametrize("template", [CHATML, None])
def test_an_answer_that_is_not_to_be_learned_is_read_all_the_same(tmp_path, template):
    tokenizer = bytewise(template)
    first, answer, more, last = turns("a", "b", "c", "d")
    path = write_rows(tmp_path / "m.jsonl", [{"messages": [first, answer | {"weight": 0}, more, last]}])
    row = tokenise(read_texts(path), tokenizer, 256).rows[0]
    (learned,) = trained(tokenizer, row)
    assert learned.startswith("d")
    whole = tokenise(read_texts(write_rows(tmp_path / "n.jsonl", [{"messages": turns("a", "b", "c", "d")}])), tokenizer, 256)
    assert row["input_ids"] == whole.rows[0]["input_ids"]


def test_without_a_template_a_conversation_gets_our_plain_text(tmp_path):
    tokenizer = bytewise()
    texts = read_texts(write_rows(tmp_path / "m.jsonl", [BARE]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    assert tokenizer.decode(row["input_ids"]) == (
        "be short\n\n### Instruction:\nwhat does it\n\n### Response:\nit reads</s>\n\n"
        "### Instruction:\nthe list\n\n### Response:\nno</s>"
    )
    assert trained(tokenizer, row) == ["it reads</s>", "no</s>"]


def test_a_template_that_rewrites_earlier_turns_gives_an_example_for_each_answer(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="loraplan")
    path = write_rows(tmp_path / "m.jsonl", [{"messages": BARE["messages"][1:3]}, BARE])
    tokenizer = bytewise(REWRITES)
    rows = tokenise(read_texts(path), tokenizer, 256).rows
    assert [trained(tokenizer, row) for row in rows] == [
        ["<think>it reads<|im_end|>"], ["<think>it reads<|im_end|>"], ["<think>no<|im_end|>"]
    ]  # fmt: skip
    for row, before in zip(rows, (BARE["messages"][1:2], BARE["messages"][:2], BARE["messages"][:4]), strict=True):
        asked = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(row["input_ids"]).startswith(asked)
    assert "so each answer of 2 conversations is an example of its own, 3 in all, 1.4 times the text" in caplog.text
    assert len(tokenise(read_texts(path), tokenizer, 256, settings=ALL).rows) == 2


def test_where_asking_writes_more_than_answers_begin_with_the_rest_is_learned():
    """An empty thought when it is asks without thinking, and none in what was said."""
    template = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
    (example,) = segments(talk(*turns("a", "b")), bytewise(template))
    assert [part.trained for part in example] == [False, True]
    assert example[0].text.endswith("<|im_start|>assistant\n")
    assert example[1].text == "b<|im_end|>"
    (kept,) = segments(talk(*turns("a", "<think>so</think>b")), bytewise(template))
    assert kept[0].text.endswith("assistant\n<think>")
    assert kept[1].text == "so</think>b<|im_end|>"
    (tag,) = segments(talk(*turns("a", "<b>b</b>")), bytewise(template))
    assert tag[1].text == "<b>b</b><|im_end|>"  # and not from its second letter on


ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
ENDLESS += "{% if add_generation_prompt %}assistant: {% endif %}"


def test_an_answer_that_the_template_does_not_end_gets_the_models_own_end():
    """And an example of its own, because no text has the end and what the template writes behind it."""
    writer = Writer(bytewise(ENDLESS), DataSettings())
    found = writer.segments(talk(*turns("a", "b", "c", "d")))
    assert [[part.text for part in example] for example in found] == [
        ["user: a\nassistant: ", "b</s>"], ["user: a\nassistant: b\nuser: c\nassistant: ", "d</s>"]
    ]  # fmt: skip
    assert writer.ended


def test_what_stops_a_model_may_be_what_the_next_turn_begins_with(tmp_path):
    """As in GLM-4.5, whose generation stops at the user's mark."""
    template = CHATML.replace("<|im_end|>\n", "")
    tokenizer = bytewise(template)
    tokenizer.name_or_path = str(tmp_path)
    stop = tokenizer.convert_tokens_to_ids("<|im_start|>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tokenizer.eos_token_id, stop]}))
    (example,) = segments(talk(*turns("a", "b", "c", "d")), tokenizer)
    assert [part.text for part in example] == [
        "<|im_start|>user\na<|im_start|>assistant\n", "b<|im_start|>", "user\nc<|im_start|>assistant\n", "d</s>"
    ]  # fmt: skip


def test_what_a_template_writes_behind_the_stop_is_not_learned():
    """Phi-3 ends the whole text with a token that earlier answers do not have."""
    template = CHATML.replace("{% if add", "{% if not add_generation_prompt %}</s>{% endif %}{% if add").replace(
        "\n{% endfor", "{% endfor"
    )
    tokenizer = bytewise(template)
    tokenizer.eos_token = "<|im_end|>"
    (example,) = segments(talk(*turns("a", "b", "c", "d")), tokenizer)
    assert [part.text for part in example if part.trained] == ["b<|im_end|>", "d<|im_end|>"]


# Mistral's: the system's turn stands before the last question, until that is answered.
MOVES = (
    "{% set rules = messages[0].content + ' ' if messages[0].role == 'system' else '' %}{% for m in messages %}"
    "{% if m.role == 'user' %}[Q]{{ rules if loop.last }}{{ m.content }}[/Q]{% elif m.role == 'assistant' %} {{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)


def test_where_asking_has_more_than_answering_keeps_it_is_asked_as_it_asks():
    found = segments(TALK, bytewise(MOVES))
    assert [[part.text for part in example] for example in found] == [
        ["[Q]be short what does it[/Q]", " it reads</s>"],
        ["[Q]what does it[/Q] it reads</s>[Q]be short the list[/Q]", " no</s>"],
    ]


def test_a_question_that_says_nothing_after_its_thought_is_no_fault_of_ours():
    row = talk(said("user", "<think>x</think>"), said("assistant", "b"))
    asks = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    (example,) = segments(row, bytewise(asks))
    assert example[-1] == Segment("b<|im_end|>", True)


def test_an_end_that_marks_leave_out_is_learned_all_the_same():
    marked = CHATML.replace(
        "{{ message['content'] }}",
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
        "{% else %}{{ message['content'] }}{% endif %}",
    ).replace("<|im_end|>", "</s>")
    (example,) = segments(talk(*turns("a", "b", "c", "d")), bytewise(marked))
    assert [part.text for part in example if part.trained] == ["b</s>", "d</s>"]


def test_the_fault_that_is_told_is_that_of_the_way_that_came_furthest():
    row = talk(said("user", "what?"), said("assistant", "b", reasoning_content="so"))
    parts = CHATML.replace("{{ message['content'] }}", "{% for part in message['content'] %}{{ part.text }}{% endfor %}")
    with pytest.raises(InputError, match=r"does not write what turn 1 \(assistant\) thinks"):
        segments(row, bytewise(parts))


def test_the_marks_of_a_template_are_believed():
    marked = CHATML.replace(
        "{{ message['content'] }}<|im_end|>",
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|im_end|>{% endif %}",
    )
    first, answer, more, last = turns("a", "b", "c", "d")
    (example,) = segments(talk(first, answer, more, last), bytewise(marked))
    assert [part.text for part in example if part.trained] == ["b<|im_end|>", "d<|im_end|>"]
    (example,) = segments(talk(first, answer | {"learned": False}, more, last), bytewise(marked))
    assert [part.text for part in example if part.trained] == ["d<|im_end|>"]
    rewrites = marked.replace("{% generation %}", "{% generation %}{{ '<think>' if loop.last }}")
    found = segments(talk(first, answer, more, last), bytewise(rewrites))
    assert [[part.text for part in one if part.trained] for one in found] == [["<think>b<|im_end|>"], ["<think>d<|im_end|>"]]


@pytest.mark.parametrize("said", [">", "a > b|>", "<think>so</think>"])
def test_an_answer_that_the_template_ends_gets_no_second_end(said):
    (example,) = segments(talk(*turns("a", said)), bytewise(CHATML))
    assert example[-1].text == f"{said}<|im_end|>"


def test_a_turn_that_the_template_does_not_write_is_named():
    silent = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if message['role'] != 'system' }}")
    with pytest.raises(InputError, match=r"does not write what turn 0 \(system\) says"):
        segments(TALK, bytewise(silent))


def test_a_template_that_wants_content_in_parts_is_given_parts():
    parts = CHATML.replace("{{ message['content'] }}", "{% for part in message['content'] %}{{ part.text }}{% endfor %}")
    assert segments(TALK, bytewise(parts)) == segments(TALK, bytewise(CHATML))


def test_a_template_that_writes_turns_in_another_order_is_refused():
    backwards = CHATML.replace("in messages", "in messages | reverse")
    with pytest.raises(InputError, match="does not write turn 2 behind turn 1"):
        segments(TALK, bytewise(backwards))


def test_answers_that_are_not_learned_give_no_example_of_their_own():
    first, answer, more, last = turns("a", "b", "c", "d")
    (example,) = segments(talk(first, answer | {"learned": False}, more, last), bytewise(REWRITES))
    assert example[-1] == Segment("<think>d<|im_end|>", True)


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_a_template_that_refuses_a_row_is_named(tmp_path, loss_on):
    path = write_rows(tmp_path / "m.jsonl", [{"messages": BARE["messages"][1:3]}, BARE])
    with pytest.raises(InputError, match=r"row 2: .* refuses the messages: no system turns here; change them") as caught:
        tokenise(read_texts(path), words(REFUSES), 64, settings=DataSettings(loss_on=loss_on))
    assert "\n" not in str(caught.value)


def test_rows_keep_their_numbers_when_shuffled(tmp_path):
    path = write_rows(tmp_path / "m.jsonl", [{"messages": BARE["messages"][1:3]}, BARE])
    texts = read_texts(path)
    drawn = replace(texts, rows=texts.rows.select([1, 0]))
    with pytest.raises(InputError, match="row 2: the chat template refuses"):
        tokenise(drawn, words(REFUSES), 64)


def test_segments_are_whole_and_alternate():
    (found,) = segments(TALK, bytewise(CHATML))
    assert "".join(part.text for part in found) + "\n" == bytewise(CHATML).apply_chat_template(BARE["messages"], tokenize=False)
    assert [part.trained for part in found] == [False, True, False, True]
    assert segments({"prompt": "a", "completion": "b"}, bytewise(), ALL) == [[Segment("ab</s>", True)]]


def test_no_segment_is_empty():
    (found,) = segments(talk(*turns("a", "b")), bytewise())
    assert [part.text for part in found] == ["### Instruction:\na\n\n### Response:\n", "b</s>"]
    assert segments(talk(*turns("a", "b")), bytewise(), ALL) == [[Segment("".join(part.text for part in found), True)]]


NOTHING = "{% for message in messages %}{% endfor %}"


@pytest.mark.parametrize("template", [NOTHING, "{% if add_generation_prompt %}{% endif %}", "x"])
def test_a_template_that_writes_no_answer_is_refused(template):
    with pytest.raises(InputError, match=r"does not write what turn 0 \(system\) says"):
        segments(TALK, bytewise(template))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{{ messages.nope.nope }}",
        "{% for i in range(10**7) %}x{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_a_template_that_fails_is_one_line(template):
    with pytest.raises(InputError, match="the chat template refuses the messages: ") as caught:
        segments(TALK, bytewise(template))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template", ["{{ 'a' * (10**10) }}", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"]
)
def test_a_template_that_fills_the_memory_or_never_ends_is_one_line(template, monkeypatch):
    monkeypatch.setattr("trainer.data.chat.template.bounded", lambda: bounded(0.5, 2**28))
    with pytest.raises(InputError, match="the chat template takes seconds or a gigabyte for one row"):
        segments(TALK, bytewise(template))
