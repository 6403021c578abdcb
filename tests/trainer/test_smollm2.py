"""The real SmolLM2-135M-Instruct, from its GGUF file: minutes, so only in the slow tier."""

import importlib.util
from pathlib import Path

import pytest
import torch

import planner
import spectra
from planner.modules.labelled import token_losses
from spectra import open_checkpoint
from tests.trainer.examples import read_rows, uniform, write_rows
from trainer import TrainSettings, evaluate, train
from trainer.base_model import load_model, load_tokenizer
from trainer.data.dataset import batches, read_texts
from trainer.data.tokenize import tokenise
from trainer.demo.language import MODEL_PACKAGE, write_examples
from trainer.evaluation.multiple_choice import _apart, _packed, questions_of

pytestmark = [pytest.mark.slow, pytest.mark.training]


@pytest.fixture(scope="module")
def file():
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None:
        pytest.skip("the model's package is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def model(file):
    return load_model(open_checkpoint(file), "causal", (), seed=0).eval()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Docstrings and the names of their functions, a few to learn from and a few held out."""
    folder = tmp_path_factory.mktemp("named")
    train_file, test_file = write_examples(folder)
    return train_file, write_rows(folder / "few.jsonl", read_rows(test_file)[:32])


def test_the_file_and_its_values_in_safetensors_are_one_model(file, model, tmp_path):
    model.save_pretrained(tmp_path / "same")
    one, other = open_checkpoint(file), open_checkpoint(tmp_path / "same")
    assert one.fingerprint == other.fingerprint
    assert {tensor.name: tensor.shape for tensor in one.tensors} == {tensor.name: tensor.shape for tensor in other.tensors}
    ours, theirs = (spectra.analyze(place).by_name() for place in (file, tmp_path / "same"))
    assert len(ours) == 211
    assert {name: matrix.alpha for name, matrix in ours.items()} == {name: matrix.alpha for name, matrix in theirs.items()}
    assert planner.mismatches(uniform(tmp_path / "same", "rank 2"), one) == []


def test_losses_from_labelled_positions_are_the_models_own(file, model, named):
    tokenizer = load_tokenizer(file)
    examples = tokenise(read_texts(named[1]), tokenizer, 128)
    for batch in batches(examples, tokenizer, 8):
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        with torch.no_grad():
            whole = model(**batch).loss
            losses, _ = token_losses(model, inputs, batch["labels"])
        torch.testing.assert_close(losses.mean(), whole, rtol=1e-6, atol=1e-6)


def test_choices_side_by_side_score_as_one_by_one(file, model, named, tmp_path):
    names = [row["completion"] for row in read_rows(named[1])]
    rows = [
        {"prompt": row["prompt"], "choices": [row["completion"], *(name for name in names[:3] if name != row["completion"])]}
        | {"answer": 0}
        for row in read_rows(named[1])[:16]
    ]
    texts = read_texts(write_rows(tmp_path / "choices.jsonl", rows), evaluation=True)
    tokenizer = load_tokenizer(file)
    questions = questions_of(texts, tokenizer, 256)
    with torch.inference_mode():
        packed, apart = (ask(model, questions, tokenizer) for ask in (_packed, _apart))
    for one, other in zip(packed, apart, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-3)


def test_fine_tuning_helps(file, named, tmp_path):
    settings = TrainSettings(max_steps=20, batch_size=16)
    train(uniform(file, "rank 4"), file, named[0], tmp_path / "run", settings)
    found = evaluate(tmp_path / "run", named[1])
    assert found.trained["loss"] < 0.7 * found.untrained["loss"]
