"""The tokens that end an answer."""

import json

import pytest

from tests.trainer.data.examples import bytewise
from trainer.data.chat.stops import Stops


def tokenizer_with(tmp_path, generation):
    tokenizer = bytewise()
    tokenizer.name_or_path = str(tmp_path)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(generation)
    return tokenizer


def test_the_first_token_that_stops_generation_ends_an_answer():
    stops = Stops(bytewise())
    assert stops.own == "</s>"
    assert stops.end("b<|im_end|></s>x</s>", 1) == len("b<|im_end|></s>")
    assert stops.end("b</s>c</s>", 6) == len("b</s>c</s>")


def test_the_last_mark_does_where_no_such_token_stands():
    assert Stops(bytewise()).end("b<|im_start|>x<|im_end|>\n", 1) == len("b<|im_start|>x<|im_end|>")
    assert Stops(bytewise()).end("b\n", 1) == -1


@pytest.mark.parametrize("many", [True, False])
def test_the_models_generation_settings_name_stops(tmp_path, many):
    mark = bytewise().convert_tokens_to_ids("<|im_end|>")
    stops = Stops(tokenizer_with(tmp_path, json.dumps({"eos_token_id": [mark] if many else mark})))
    assert stops.all == {"</s>", "<|im_end|>"}
    assert stops.end("b<|im_end|></s>", 1) == len("b<|im_end|>")
    assert stops.opening("<|im_end|>x") == "<|im_end|>"
    assert stops.opening("x<|im_end|>") == ""


@pytest.mark.parametrize("text", [None, "{}", "{nope", "[]", '{"eos_token_id": "x"}', '{"eos_token_id": [true, -1, 1e9]}'])
def test_settings_without_stops_leave_the_tokenizers_own(tmp_path, text):
    assert Stops(tokenizer_with(tmp_path, text)).all == {"</s>"}
