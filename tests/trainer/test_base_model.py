"""Loading a base model for a task: its head, its precision, and what cannot be loaded."""

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from spectra import InputError, open_checkpoint
from tests import models
from trainer.base_model import BF16_UNITS, has_bf16_units, head, load_model, load_tokenizer

LABELS = ("bad", "good", "odd")


def saved(folder, family, head="AutoModel"):
    models.build(family, head).save_pretrained(folder)
    return open_checkpoint(folder)


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_llama):
    tokenizer = load_tokenizer(tiny_llama)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_a_tokenizer_of_its_own_padding_keeps_it(minilm):
    assert load_tokenizer(minilm).pad_token == "[PAD]"


def test_a_tokenizer_without_padding_or_end_is_refused(tiny_llama, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the tokenizer has neither a padding nor an end-of-text token; set pad_token in its"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path):
    models.build("llama").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no usable tokenizer: ") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_classifier_has_the_labels_and_a_head_of_the_seed_alone(tiny_llama):
    checkpoint = open_checkpoint(tiny_llama)
    torch.manual_seed(9)
    one, again, other = (load_model(checkpoint, "classification", LABELS, seed, pad_token_id=2) for seed in (0, 0, 1))
    assert one.config.id2label == {0: "bad", 1: "good", 2: "odd"}
    assert one.config.label2id == {"bad": 0, "good": 1, "odd": 2}
    assert one.config.pad_token_id == 2
    assert head(one).keys() == {"score.weight"}
    assert torch.equal(one.score.weight, again.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)
    assert torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)


def test_a_language_model_has_no_new_head(tiny_llama):
    model = load_model(open_checkpoint(tiny_llama), "causal", (), seed=0)
    assert head(model) == {}
    stored = load_file(tiny_llama / "model.safetensors")
    assert torch.equal(model.model.embed_tokens.weight, stored["model.embed_tokens.weight"])


def test_an_encoders_head_is_everything_outside_its_body(tmp_path):
    model = load_model(saved(tmp_path, "bert"), "classification", LABELS, seed=0)
    assert head(model).keys() == {"classifier.weight", "classifier.bias"}
    assert head(transformers.AutoModel.from_pretrained(tmp_path)) == {}


def test_a_head_for_other_labels_is_drawn_anew(tiny_llama, tmp_path):
    load_model(open_checkpoint(tiny_llama), "classification", LABELS, seed=0, pad_token_id=2).save_pretrained(tmp_path)
    model = load_model(open_checkpoint(tmp_path), "classification", ("a", "b"), seed=0)
    assert tuple(model.score.weight.shape) == (2, 32)


def test_half_precision_bases_keep_a_new_head_in_float32(tiny_llama):
    model = load_model(open_checkpoint(tiny_llama), "classification", LABELS, seed=0, pad_token_id=2, precision="bf16")
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name not in head(model)} == {torch.bfloat16}
    assert dtypes["score.weight"] == torch.float32
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.dtype == torch.float32


def test_encoder_decoder_models_cannot_be_trained_yet(tmp_path):
    with pytest.raises(InputError, match=r"an encoder-decoder model \(t5\), which cannot be trained yet"):
        load_model(saved(tmp_path, "t5"), "causal", (), seed=0)


def test_an_encoder_is_no_language_model(tmp_path):
    with pytest.raises(InputError, match=r"no causal language model: its checkpoint lacks '.*'; add a label column to classify"):
        load_model(saved(tmp_path, "bert"), "causal", (), seed=0)


def test_a_model_without_such_a_head_is_one_line(tmp_path):
    checkpoint = saved(tmp_path, "vit")
    with pytest.raises(InputError, match="cannot be loaded for causal: ") as caught:
        load_model(checkpoint, "causal", (), seed=0)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_named(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, :3] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"weight '{name}' holds 3 NaN or infinite values"):
        load_model(open_checkpoint(folder), "causal", (), seed=0)


@pytest.mark.parametrize("unit", [*BF16_UNITS, "avx2"])
def test_bf16_is_used_where_a_processor_has_units_for_it(unit, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True}, raising=False)
    assert has_bf16_units() == (unit in BF16_UNITS)
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert not has_bf16_units()
