"""GGUF files beside the same weights in safetensors, and files that are none."""

import struct

import pytest
import torch

import spectra
from spectra import InputError, open_checkpoint
from tests import models
from tests.models import save_gguf, save_with_tokenizer
from trainer.base_model import load_model

SIZES = {"hidden_size": 64, "intermediate_size": 96}  # whole blocks of 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_with_tokenizer(models.CONFIGS["llama"](**SIZES), tmp_path_factory.mktemp("gguf") / "model")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_file_is_the_same_model_as_its_values_in_safetensors(kind, folder, tmp_path):
    file = save_gguf(folder, tmp_path / "tiny.gguf", kind)
    checkpoint = open_checkpoint(file)
    load_model(checkpoint, "causal", (), seed=0).save_pretrained(tmp_path / "same")
    same = open_checkpoint(tmp_path / "same")
    assert checkpoint.fingerprint == same.fingerprint
    assert {tensor.name: tensor.shape for tensor in checkpoint.tensors} == {one.name: one.shape for one in same.tensors}
    assert (checkpoint.name, checkpoint.source, checkpoint.parameters) == ("tiny", str(file), same.parameters)
    ours, theirs = (spectra.analyze(model).by_name() for model in (file, tmp_path / "same"))
    assert ours.keys() == theirs.keys()
    assert [one.alpha for one in ours.values()] == [one.alpha for one in theirs.values()]


def test_a_folder_with_one_file_is_that_file(folder, tmp_path):
    file = save_gguf(folder, tmp_path / "tiny.gguf")
    assert open_checkpoint(tmp_path).gguf == file
    save_gguf(folder, tmp_path / "other.gguf", "F16")
    with pytest.raises(InputError, match=r"2 GGUF files in this folder; give one of them, such as .*other.gguf"):
        open_checkpoint(tmp_path)


def test_weights_are_told_apart(folder, tmp_path):
    one, other = (save_gguf(folder, tmp_path / f"{kind}.gguf", kind) for kind in ("Q8_0", "F16"))
    assert open_checkpoint(one).weights == open_checkpoint(one).weights != open_checkpoint(other).weights


def test_a_model_and_its_values_come_from_one_reading(folder, tmp_path):
    file = save_gguf(folder, tmp_path / "tiny.gguf")
    ours = load_model(open_checkpoint(file), "causal", (), seed=0)
    theirs = load_model(open_checkpoint(folder), "causal", (), seed=0)
    for (name, one), (_, other) in zip(sorted(ours.named_parameters()), sorted(theirs.named_parameters()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    ours.save_pretrained(tmp_path / "saved")
    assert open_checkpoint(tmp_path / "saved").fingerprint == open_checkpoint(folder).fingerprint


def damaged(file, change):
    file.write_bytes(change(bytearray(file.read_bytes())))
    return file


def unknown_kind(content):
    """The first tensor's number of a kind, which stands behind its name, dimensions and sizes."""
    name = b"token_embd.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8
    content[at : at + 4] = struct.pack("<I", 999)
    return content


def endless_array(content):
    """A list of numbers that claims to be longer than the file, and whose reader finds nothing there, again and again."""
    name, kind = b"tokenizer.ggml.token_type", 9
    at = content.index(name) + len(name)
    assert struct.unpack_from("<I", content, at) == (kind,)
    content[at + 8 : at + 16] = struct.pack("<Q", 2**60)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (endless_array, "it ends before what it claims to hold"),
        (lambda content: content[:200], "not a readable GGUF file"),
        (lambda content: content[: len(content) // 2], "not a readable GGUF file"),
        (lambda content: b"", "not a readable GGUF file"),
        (lambda content: b"no GGUF at all" * 100, "not a readable GGUF file: "),
        (unknown_kind, "quantised in a way that the gguf package does not know: .*999"),
        (lambda content: content.replace(b"llama", b"lamal"), "architecture lamal|lamal"),
    ],
)
def test_what_is_no_such_file_is_one_line(change, message, folder, tmp_path):
    file = damaged(save_gguf(folder, tmp_path / "tiny.gguf"), change)
    with pytest.raises(InputError, match=rf"tiny.gguf: .*({message})") as error:
        open_checkpoint(file)
    assert "\n" not in str(error.value)


def test_a_part_of_a_model_and_another_file_are_refused(tmp_path):
    for name, message in (("a-00001-of-00002.gguf", "one part of a model in several files"), ("a.bin", "a file; give the model")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=message):
            open_checkpoint(tmp_path / name)
