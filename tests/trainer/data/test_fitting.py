"""Examples that are too long lose their oldest turns or their front, and never the answer."""

import pytest

from tests.trainer.data.examples import CHATML, REWRITES, bytewise, talk, trained, turns, words
from tests.trainer.examples import write_rows
from trainer.data.chat.writer import Writer
from trainer.data.dataset import read_texts
from trainer.data.fitting import fitted
from trainer.data.tokenize import tokenise
from trainer.settings import DataSettings

LONG = talk(*turns("q" * 30, "a" * 20, "r" * 30, "b" * 20, "s" * 30, "c" * 20, system="be short"))


def fit(row, most, template=CHATML, settings=None):
    tokenizer = bytewise(template)
    found = list(fitted(row, Writer(tokenizer, settings or DataSettings()), [], most))
    return tokenizer, [{"input_ids": one.ids, "labels": one.labels} for one in found]


@pytest.mark.parametrize(("most", "kept"), [(400, 3), (200, 3), (180, 2), (130, 2), (90, 1)])
@pytest.mark.parametrize("template", [CHATML, None])
def test_a_conversation_loses_its_oldest_turns_and_keeps_the_system(most, kept, template):
    tokenizer, (found,) = fit(LONG, most, template)
    if template is None and most in (130, 180):
        kept = {130: 1, 180: 2}[most]
    text = tokenizer.decode(found["input_ids"])
    assert len(found["input_ids"]) <= most
    assert "be short" in text
    learned = trained(tokenizer, found)
    assert len(learned) == min(kept, len(learned)) >= 1
    assert learned[-1].startswith("c" * 20)
    assert learned[-1] != "c" * 20  # its end as well


def test_then_the_last_question_loses_its_front():
    tokenizer, (found,) = fit(LONG, 60)
    text = tokenizer.decode(found["input_ids"])
    assert len(found["input_ids"]) <= 60
    assert "q" not in text.replace("system", "")
    assert "user\nss<|im_end|>" in text
    assert trained(tokenizer, found) == ["c" * 20 + "<|im_end|>"]


def test_an_answer_that_is_too_long_alone_is_left_out():
    _, (found,) = fit(LONG, 20)
    assert found == {"input_ids": [], "labels": []}


def test_every_answer_of_a_template_that_rewrites_is_fitted_on_its_own():
    tokenizer, found = fit(LONG, 100, REWRITES)
    assert [trained(tokenizer, row) for row in found] == [[f"<think>{letter * 20}<|im_end|>"] for letter in "abc"]
    assert all(len(row["input_ids"]) <= 100 for row in found)
    assert "q" * 30 in tokenizer.decode(found[0]["input_ids"])
    assert "q" * 30 not in tokenizer.decode(found[2]["input_ids"])


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_a_prompt_loses_its_front(loss_on):
    tokenizer, (found,) = fit({"prompt": "0123456789", "completion": "abc"}, 8, settings=DataSettings(loss_on=loss_on))
    assert tokenizer.decode(found["input_ids"]) == "6789abc</s>"
    assert trained(tokenizer, found) == ["abc</s>" if loss_on == "completion" else "6789abc</s>"]
    assert fit({"prompt": "0123456789", "completion": "abc"}, 4)[1] == [{"input_ids": [], "labels": []}]


@pytest.mark.parametrize("text", ["the file " * 5000, "the " + " " * 90_000 + "file", "thefile" * 9000])
def test_of_a_very_long_prompt_only_the_end_is_looked_at_and_to_the_same_tokens(tmp_path, text):
    row = {"prompt": text, "completion": " list"}
    for tokenizer in (words(), bytewise()):
        texts = read_texts(write_rows(tmp_path / "l.jsonl", [row]))
        short, whole = (tokenise(texts, tokenizer, length).rows[0] for length in (32, len(text)))
        assert short["input_ids"][-31:] == whole["input_ids"][-31:]
        assert trained(tokenizer, short) == trained(tokenizer, whole)


def test_counts_say_what_was_cut_and_what_was_left_out(tmp_path):
    rows = [{"prompt": "p" * asked, "completion": "c" * answered} for asked, answered in ((2, 2), (20, 2), (2, 20), (20, 20))]
    found = tokenise(read_texts(write_rows(tmp_path / "c.jsonl", rows)), bytewise(), 10)
    assert (len(found.rows), found.truncated, found.dropped) == (2, 1, 2)
