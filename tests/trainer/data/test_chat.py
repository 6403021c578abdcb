"""Prompts and conversations written out: exactly the answers are learned."""

import logging
from dataclasses import replace

import pytest

from spectra import InputError
from tests.trainer.data.examples import CHATML, REFUSES, REWRITES, TALK, bytewise, trained, turns, words
from tests.trainer.examples import write_rows
from trainer.data.bounded import bounded
from trainer.data.chat import Segment, encode, segments
from trainer.data.dataset import read_texts
from trainer.data.tokenize import tokenise


@pytest.mark.parametrize("make", [words, bytewise])
def test_the_loss_counts_exactly_the_assistants_turns(tmp_path, make):
    tokenizer = make(CHATML)
    texts = read_texts(write_rows(tmp_path / "m.jsonl", [TALK]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    stretches = [stretch.replace(" <|im_end|>", "<|im_end|>").strip() for stretch in trained(tokenizer, row)]
    assert stretches == ["it reads<|im_end|>", "no<|im_end|>"]
    whole = tokenizer.apply_chat_template(TALK["messages"], tokenize=True, return_dict=False)
    assert row["input_ids"] == whole
    everything = tokenise(texts, tokenizer, 256, loss_on="all").rows[0]
    assert everything["labels"] == everything["input_ids"] == whole


def test_turns_after_the_last_answer_are_read_but_not_learned(tmp_path):
    tokenizer = bytewise(CHATML)
    texts = read_texts(write_rows(tmp_path / "m.jsonl", [{"messages": turns("a", "b", "c")}]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    assert trained(tokenizer, row) == ["b<|im_end|>\n"]
    assert tokenizer.decode(row["input_ids"]).endswith("c<|im_end|>\n")


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
    texts = read_texts(write_rows(tmp_path / "m.jsonl", [TALK]))
    row = tokenise(texts, tokenizer, 256).rows[0]
    assert tokenizer.decode(row["input_ids"]) == (
        "be short\n\n### Instruction:\nwhat does it\n\n### Response:\nit reads</s>\n\n"
        "### Instruction:\nthe list\n\n### Response:\nno</s>"
    )
    assert trained(tokenizer, row) == ["it reads</s>", "no</s>"]


def test_a_template_that_rewrites_earlier_turns_gives_an_example_for_each_answer(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="loraplan")
    path = write_rows(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    tokenizer = bytewise(REWRITES)
    rows = tokenise(read_texts(path), tokenizer, 256).rows
    assert [trained(tokenizer, row) for row in rows] == [
        ["<think>b<|im_end|>\n"], ["<think>it reads<|im_end|>\n"], ["<think>no<|im_end|>\n"]
    ]  # fmt: skip
    for row, before in zip(rows, (turns("a"), TALK["messages"][:2], TALK["messages"][:4]), strict=True):
        asked = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(row["input_ids"]).startswith(asked)
    assert "each answer of 2 conversations is an example of its own, 3 in all" in caplog.text
    assert len(tokenise(read_texts(path), tokenizer, 256, loss_on="all").rows) == 2


def test_where_asking_writes_more_than_answers_begin_with_the_rest_is_learned():
    """An empty thought when it is asks without thinking, and none in what was said."""
    template = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
    (example,) = segments({"messages": turns("a", "b")}, bytewise(template), "completion")
    assert [part.trained for part in example] == [False, True]
    assert example[0].text.endswith("<|im_start|>assistant\n")
    assert example[1].text == "b<|im_end|>\n"
    (kept,) = segments({"messages": turns("a", "<think>so</think>b")}, bytewise(template), "completion")
    assert kept[0].text.endswith("assistant\n<think>")
    assert kept[1].text == "so</think>b<|im_end|>\n"
    (tag,) = segments({"messages": turns("a", "<b>b</b>")}, bytewise(template), "completion")
    assert tag[1].text == "<b>b</b><|im_end|>\n"  # and not from its second letter on


def test_an_answer_that_the_template_does_not_end_gets_the_end_of_text():
    endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    endless += "{% if add_generation_prompt %}assistant: {% endif %}"
    (example,) = segments({"messages": turns("a", "b", "c", "d")}, bytewise(endless), "completion")
    assert [part.text for part in example if part.trained] == ["b\n", "d\n</s>"]
    (further,) = segments({"messages": turns("a", "b", "c")}, bytewise(endless), "completion")
    assert [part.text for part in further] == ["user: a\nassistant: ", "b\n", "user: c\n"]


@pytest.mark.parametrize("said", [">", "a > b|>", "<think>so</think>"])
def test_an_answer_that_the_template_ends_gets_no_second_end(said):
    (example,) = segments({"messages": turns("a", said)}, bytewise(CHATML), "completion")
    assert example[-1].text == f"{said}<|im_end|>\n"


def test_a_turn_that_the_template_does_not_write_is_named():
    silent = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if message['role'] != 'system' }}")
    with pytest.raises(InputError, match=r"does not write what turn 0 \(system\) says"):
        segments(TALK, bytewise(silent), "completion")
    parts = CHATML.replace("{{ message['content'] }}", "{% for part in message['content'] %}{{ part.text }}{% endfor %}")
    with pytest.raises(InputError, match=r"does not write what turn 2 \(assistant\) says"):
        segments(TALK, bytewise(parts), "completion")


def test_answers_that_are_not_learned_give_no_example_of_their_own():
    first, answer, more, last = turns("a", "b", "c", "d")
    row = {"messages": [first, answer | {"learned": False}, more, last]}
    (example,) = segments(row, bytewise(REWRITES), "completion")
    assert example[-1] == Segment("<think>d<|im_end|>\n", True)


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_a_template_that_refuses_a_row_is_named(tmp_path, loss_on):
    path = write_rows(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    with pytest.raises(InputError, match=r"row 2: .* refuses the messages: no system turns here; change them") as caught:
        tokenise(read_texts(path), words(REFUSES), 64, loss_on=loss_on)
    assert "\n" not in str(caught.value)


def test_rows_keep_their_numbers_when_shuffled(tmp_path):
    path = write_rows(tmp_path / "m.jsonl", [{"messages": turns("a", "b")}, TALK])
    texts = read_texts(path)
    drawn = replace(texts, rows=texts.rows.select([1, 0]))
    with pytest.raises(InputError, match="row 2: the tokenizer's chat template refuses"):
        tokenise(drawn, words(REFUSES), 64)


def test_segments_are_whole_and_alternate():
    (found,) = segments(TALK, bytewise(CHATML), "completion")
    assert "".join(part.text for part in found) == bytewise(CHATML).apply_chat_template(TALK["messages"], tokenize=False)
    assert [part.trained for part in found] == [False, True, False, True]
    assert segments({"prompt": "a", "completion": "b"}, bytewise(), "all") == [[Segment("ab</s>", True)]]


def test_rows_are_encoded_uncut_with_labels_where_the_loss_counts():
    tokenizer = words()
    (one, other) = encode([{"row": 1, "prompt": "the", "completion": " file"}, {"row": 2, "prompt": "a", "completion": " list"}],
                          tokenizer, "completion", 64)  # fmt: skip
    assert tokenizer.decode(one[0]) == "<s> the file </s>"
    assert one[1][:2] == [-100, -100]
    assert one[1][2:] == one[0][2:]
    assert tokenizer.decode(other[0]) == "<s> a list </s>"


def test_a_refused_row_is_named_by_its_number():
    with pytest.raises(InputError, match="row 7: the tokenizer's chat template refuses the messages"):
        list(encode([TALK | {"row": 7}], words(REFUSES), "completion", 64))


def test_no_segment_is_empty():
    (found,) = segments({"messages": turns("a", "b")}, bytewise(), "completion")
    assert [part.text for part in found] == ["### Instruction:\na\n\n### Response:\n", "b</s>"]
    assert segments({"messages": turns("a", "b")}, bytewise(), "all") == [[Segment("".join(part.text for part in found), True)]]


@pytest.mark.parametrize("text", ["the file " * 5000, "the " + " " * 90_000 + "file", "thefile" * 9000])
def test_of_a_very_long_row_only_the_beginning_is_tokenised_and_to_the_same_tokens(text):
    row, length = {"row": 1, "prompt": "read", "completion": text}, 32
    for tokenizer in (words(), bytewise()):
        ((ids, labels),) = encode([row], tokenizer, "completion", length)
        ((whole, whole_labels),) = encode([row], tokenizer, "completion", len(text))  # so long that nothing is left out
        assert (ids[:length], labels[:length]) == (whole[:length], whole_labels[:length])
        assert len(ids) > length or len(ids) == len(whole)


NOTHING = "{% for message in messages %}{% endfor %}"


@pytest.mark.parametrize("template", [NOTHING, "{% if add_generation_prompt %}{% endif %}", "x"])
def test_a_template_that_writes_no_answer_is_refused(template):
    with pytest.raises(InputError, match=r"does not write what turn 2 \(assistant\) says"):
        segments(TALK, bytewise(template), "completion")


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
    with pytest.raises(InputError, match="the tokenizer's chat template refuses the messages: ") as caught:
        segments(TALK, bytewise(template), "completion")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template", ["{{ 'a' * (10**10) }}", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"]
)
def test_a_template_that_fills_the_memory_or_never_ends_is_one_line(template, monkeypatch):
    monkeypatch.setattr("trainer.data.chat.bounded", lambda: bounded(0.5, 2**28))
    with pytest.raises(InputError, match="the tokenizer's chat template takes seconds or a gigabyte for one row"):
        segments(TALK, bytewise(template), "completion")
