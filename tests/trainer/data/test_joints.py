"""Token ids of segments, against those that every beginning of the text has alone."""

import os
import random

import pytest

from tests.reference import joints as reference
from tests.trainer.data.examples import CHATML, bytewise, talk, turns
from tests.trainer.data.tokenizers import KINDS, tokenizer_of
from trainer.data.chat import Segment, segments
from trainer.data.joints import token_ids

BITS = (
    "a", "the", " the", "plan ", "\n", "\n\n", " ", "  ", "   layer", "é", "😀", "42", "1234", ".", "!\n", "<", "<|", "</s>",
    "\t", "word",
    "Rank", "'s", "ﬁ", "e\u0301", "\u00a0", "\r\n", "`x`", "##", "▁", "<0x41>", "---",
)  # fmt: skip


COUNT = int(os.environ.get("JOINTS", 100))  # of each kind; 800 make the ten thousand of the docs


def text(rng, most):
    return "".join(rng.choices(BITS, k=rng.randint(1, most)))


@pytest.mark.parametrize("kind", KINDS)
def test_segments_have_the_ids_that_every_beginning_has_alone(kind):
    rng, tokenizer = random.Random(kind), tokenizer_of(kind)
    examples = [[Segment(text(rng, 6), bool(at % 2)) for at in range(rng.randint(1, 5))] for _ in range(COUNT)]
    for example, found in zip(examples, token_ids(examples, tokenizer), strict=True):
        assert found == reference.token_ids([part.text for part in example], tokenizer), example


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_have_the_ids_of_the_whole_and_answers_begin_and_end_where_the_text_says(kind):
    rng, tokenizer = random.Random(kind), tokenizer_of(kind)
    tokenizer.chat_template = CHATML
    rows = [talk(*turns(*(text(rng, 8).strip() + "." for _ in range(2 * rng.randint(1, 3))))) for _ in range(COUNT)]
    examples = [example for row in rows for example in segments(row, tokenizer)]
    for example, found in zip(examples, token_ids(examples, tokenizer), strict=True):
        assert found == reference.token_ids([part.text for part in example], tokenizer)
        whole = "".join(part.text for part in example)
        ids = [number for part in found for number in part]
        assert ids == reference.ids_of(whole, tokenizer) or kind in ("phi3", "llama2", "mistral", "always", "t5", "roberta")
        for part, own in zip(example, found, strict=True):
            if part.trained:
                assert own[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>" if "<|im_end|>" in part.text else "</s>")


def test_a_joint_that_melts_is_tokenised_apart():
    tokenizer = bytewise()
    (found,) = token_ids([[Segment("is ", False), Segment("what", True), Segment("\n", False), Segment("\nso", True)]], tokenizer)
    assert [tokenizer.decode(part) for part in found] == ["is ", "what", "\n", "\nso"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("is what")["input_ids"]) == ["i", "s", "Ġw", "h", "a", "t"]


def test_limits_that_earlier_calls_have_set_do_not_hold():
    tokenizer = bytewise()
    tokenizer("a long text", truncation=True, max_length=3)
    assert len(next(token_ids([[Segment("a long text", True)]], tokenizer))[0]) == 11
