"""A GGUF file on the whole way: planned, trained, evaluated, merged, and what it lacks in one line."""

import pytest
import torch

import planner
from spectra import InputError, open_checkpoint
from tests import models
from tests.models import save_gguf, save_with_tokenizer
from tests.trainer.examples import SHORT, uniform, write_rows
from trainer import evaluate, load_adapters, merge, train
from trainer.base_model import load_model, load_tokenizer

pytestmark = pytest.mark.training
SIZES = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 30}  # whole blocks of 32; letters and special tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_with_tokenizer(models.CONFIGS["llama"](**SIZES), tmp_path_factory.mktemp("gguf") / "model")


@pytest.fixture
def file(folder, tmp_path):
    return save_gguf(folder, tmp_path / "tiny.gguf", "Q8_0")


@pytest.fixture
def letters(tmp_path):
    return write_rows(tmp_path / "letters.jsonl", [{"prompt": "ab" * n, "completion": "c" * n} for n in range(1, 20)])


def test_it_is_planned_trained_evaluated_and_merged(file, letters, tmp_path):
    train(uniform(file, "rank 2"), file, letters, tmp_path / "run", SHORT)
    found = evaluate(tmp_path / "run", letters, generate=2)
    assert found.trained["loss"] < found.untrained["loss"]
    merge(tmp_path / "run", tmp_path / "merged")
    assert {path.name for path in (tmp_path / "merged").iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    merged = open_checkpoint(tmp_path / "merged")
    assert merged.gguf is None
    ids = torch.tensor([load_tokenizer(merged.location)("abab")["input_ids"]])
    with torch.no_grad():
        alone = load_model(merged, "causal", (), 0).eval()(ids).logits
        adapted = load_adapters(tmp_path / "run").eval()(ids).logits
    torch.testing.assert_close(alone, adapted, rtol=1e-4, atol=1e-4)


def test_a_plan_for_the_same_weights_in_safetensors_trains_it(file, letters, tmp_path):
    load_model(open_checkpoint(file), "causal", (), 0).save_pretrained(tmp_path / "same")
    plan = uniform(tmp_path / "same", "rank 1")
    assert planner.mismatches(plan, open_checkpoint(file)) == []
    train(plan, file, letters, tmp_path / "run", SHORT)


def test_a_file_without_a_tokenizer_is_one_line(folder, letters, tmp_path):
    bare = save_gguf(folder, tmp_path / "bare.gguf", tokenizer=False)
    with pytest.raises(InputError, match=r"bare\.gguf: no usable tokenizer: .") as caught:
        train(uniform(bare, "rank 1"), bare, letters, tmp_path / "run", SHORT)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
