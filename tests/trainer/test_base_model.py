"""Loading a base model for a task: its head, its precision, and what cannot be loaded."""

import io
import json
import os
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


EVIL = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Evil: pass\n"
PARTS = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification")


@pytest.mark.parametrize("answer", ["y\n" * 9, "n\n", ""])
@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_code_that_comes_with_a_model_is_never_run_whatever_stands_on_the_input(tiny_llama, tmp_path, monkeypatch, what, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    folder, mark = shutil.copytree(tiny_llama, tmp_path / "model"), tmp_path / "RUN"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    if what == "model":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": dict.fromkeys(PARTS, "evil.Evil")}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(
            InputError, match=r"it needs code of its own \(evil\.py\), and loraplan runs no code that comes with a model"
        ):
            load_model(open_checkpoint(folder), "causal", (), seed=0)
    else:
        settings = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(InputError, match=r"no usable tokenizer|neither a padding"):
            load_tokenizer(folder)
    assert not mark.exists()


def changed(folder, to, **values):
    """A copy of a model's folder with other values in its configuration."""
    copy = shutil.copytree(folder, to)
    config = json.loads((copy / "config.json").read_text()) | values
    (copy / "config.json").write_text(json.dumps(config))
    return open_checkpoint(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "32"}, "cannot be loaded for causal: "),
        ({"num_hidden_layers": 10**6}, r"its configuration has 1,000,000 layers, its weights \d+ tensors"),
        ({"vocab_size": 10**12}, r"its configuration asks for [\d,]+ weights, and [\d,]+ are stored"),
        ({"num_hidden_layers": 3}, "no causal language model: its checkpoint lacks 'model.layers.2"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "cannot be loaded for causal: "),
        ({"rms_norm_eps": "x"}, "cannot be loaded for causal: |cannot run as its configuration says: "),
        (
            {"transformers_weights": "other.safetensors"},
            "transformers_weights 'other.safetensors' names other weights; remove it",
        ),
    ],
)
def test_a_configuration_that_is_not_the_models_is_one_line(tiny_llama, tmp_path, values, message):
    with pytest.raises(InputError, match=message) as caught:
        load_model(changed(tiny_llama, tmp_path / "model", **values), "causal", (), seed=0)
    assert "\n" not in str(caught.value)


def test_a_classifiers_body_is_whole_or_refused(tmp_path):
    """transformers would give what is missing, or of another shape, random weights that nothing ever trains."""
    saved(tmp_path / "bert", "bert")
    with pytest.raises(InputError, match=r"its checkpoint lacks 'bert\.encoder\.layer\.2"):
        load_model(changed(tmp_path / "bert", tmp_path / "deeper", num_hidden_layers=3), "classification", LABELS, seed=0)
    with pytest.raises(InputError, match=r"'bert\.embeddings\.word_embeddings\.weight' has another shape in the checkpoint"):
        load_model(changed(tmp_path / "bert", tmp_path / "wider", vocab_size=99), "classification", LABELS, seed=0)


def test_an_adapter_in_the_models_folder_is_named(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="transformers would add this adapter to the model; move it out of the model's folder"):
        load_model(open_checkpoint(folder), "causal", (), seed=0)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_pipe_in_the_models_folder_is_not_waited_for(tiny_llama, tmp_path, name):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name}: not a regular file"):
        load_tokenizer(folder)
