"""What a model, its tokenizer or this machine cannot do is one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from spectra import InputError, open_checkpoint
from tests import models
from tests.models import save_tokenizer
from tests.trainer.examples import SHORT, uniform, write_rows
from trainer import evaluate, load_sample, train
from trainer.base_model import load_tokenizer
from trainer.limits import require_device, require_length, require_room, require_vocabulary
from trainer.settings import DataSettings


def test_texts_beyond_the_models_positions_are_refused(minilm, tiny_gpt2, tiny_llama):
    require_length(open_checkpoint(minilm), 512)
    with pytest.raises(InputError, match=r"`max_length` 513 is more than the 512 positions of "):
        require_length(open_checkpoint(minilm), 513)
    with pytest.raises(InputError, match="is more than the 64 positions"):
        require_length(open_checkpoint(tiny_gpt2), 65)  # which has another word for it


def test_positions_that_begin_after_the_padding_token_are_not_the_texts(tmp_path):
    """RoBERTa counts positions from one after its padding token: as many tokens as are accepted can really be computed."""
    made = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.RobertaModel(transformers.RobertaConfig(**made, max_position_embeddings=20))
    model.save_pretrained(tmp_path)
    require_length(open_checkpoint(tmp_path), 18)
    assert model(torch.full((1, 18), 5)).last_hidden_state.shape == (1, 18, 32)
    with pytest.raises(InputError, match="`max_length` 19 is more than the 18 positions"):
        require_length(open_checkpoint(tmp_path), 19)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 19), 5))


def test_a_model_that_does_not_say_takes_any_length(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    require_length(open_checkpoint(folder), 10**6)


def test_a_device_that_is_not_there_is_one_line():
    require_device("cpu")
    for device in ("nowhere", "cpu:x"):
        with pytest.raises(InputError, match=f"device '{device}': .") as caught:
            require_device(device)
        assert "\n" not in str(caught.value)


def test_what_is_generated_needs_positions_too(tiny_gpt2):
    checkpoint = open_checkpoint(tiny_gpt2)
    require_room(checkpoint, 60, 4)
    with pytest.raises(InputError, match="`generate` 5 after a prompt of 60 tokens is more than the 64 positions of tiny-gpt2"):
        require_room(checkpoint, 60, 5)


@pytest.fixture
def narrow(tmp_path):
    """A model with fewer embeddings than its tokenizer has words."""
    config = models.CONFIGS["llama"](vocab_size=12)
    torch.manual_seed(0)
    folder = tmp_path / "narrow"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


UNKNOWN = r"the tokenizer makes token \d+ \('\w+'\), but narrow has embeddings for 12; use the model's own tokenizer"


@pytest.mark.training
def test_words_without_an_embedding_are_named_before_anything_runs(narrow, tmp_path):
    known = [{"text": "the file"}] * 4
    data = write_rows(tmp_path / "rows.jsonl", [*known, {"text": " ".join(models.WORDS)}])
    plan = uniform(narrow, "rank 1")
    with pytest.raises(InputError, match=rf"rows\.jsonl: {UNKNOWN}"):
        train(plan, narrow, data, tmp_path / "run", SHORT)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=rf"rows\.jsonl: {UNKNOWN}"):
        load_sample(open_checkpoint(narrow), data, samples=8, settings=DataSettings(max_length=64), seed=0)
    few = write_rows(tmp_path / "few.jsonl", known)
    with pytest.raises(InputError, match=rf"rows\.jsonl: {UNKNOWN}"):
        train(plan, narrow, few, tmp_path / "run", SHORT, evaluation=data)
    train(plan, narrow, few, tmp_path / "run", SHORT)
    questions = write_rows(tmp_path / "asked.jsonl", [{"prompt": "the", "choices": ["file", models.WORDS[-1]], "answer": 0}])
    for file in (data, questions):
        with pytest.raises(InputError, match=rf"{file.name}: {UNKNOWN}"):
            evaluate(tmp_path / "run", file)


def test_padding_without_an_embedding_is_named(narrow):
    tokenizer = load_tokenizer(narrow)
    tokenizer.pad_token = models.WORDS[-1]
    with pytest.raises(InputError, match="the tokenizer pads with token"):
        require_vocabulary(open_checkpoint(narrow), tokenizer, [[1, 2]], Path("rows.jsonl"))
