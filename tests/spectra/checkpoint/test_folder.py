import json
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from spectra import InputError, open_checkpoint
from spectra.checkpoint.folder import find_model

WEIGHTS = {
    "layers.0.q.weight": torch.randn(6, 4),
    "layers.10.q.weight": torch.randn(4, 6, dtype=torch.bfloat16),
    "layers.9.q.weight": torch.randn(5, 5, dtype=torch.float16),
    "layers.0.q.bias": torch.randn(6),
    "positions": torch.arange(3)[None],
}


@pytest.fixture
def folder(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    return tmp_path


def test_tensors_come_in_network_order(folder):
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint.modules().items()) == [
        ("layers.0.q", (6, 4)),
        ("layers.9.q", (5, 5)),
        ("layers.10.q", (4, 6)),
    ]
    assert checkpoint.parameters == 24 + 24 + 25 + 6


def test_shards_with_and_without_an_index_are_the_same_checkpoint(folder, tmp_path):
    whole = open_checkpoint(folder)
    names = sorted(WEIGHTS)
    shards = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    for index in (True, False):
        target = tmp_path / f"shards-{index}"
        target.mkdir()
        for file, held in shards.items():
            save_file({name: WEIGHTS[name] for name in held}, target / file)
        if index:
            weight_map = {name: file for file, held in shards.items() for name in held}
            (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        sharded = open_checkpoint(target)
        assert sharded.fingerprint == whole.fingerprint
        assert [tensor.name for tensor in sharded.tensors] == [tensor.name for tensor in whole.tensors]


def test_fingerprint_is_the_architecture(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in WEIGHTS.items()}, other / "model.safetensors")
    assert open_checkpoint(other).fingerprint == open_checkpoint(folder).fingerprint
    save_file(WEIGHTS | {"layers.0.q.bias": torch.randn(7)}, other / "model.safetensors")
    assert open_checkpoint(other).fingerprint != open_checkpoint(folder).fingerprint


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"/no/such: no such folder"):
        open_checkpoint("/no/such")
    with pytest.raises(InputError, match=r"no weights: neither .*safetensors nor"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not a readable torch checkpoint"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="a file; give the model's folder"):
        find_model(tmp_path / "pytorch_model.bin")


def test_an_unknown_hub_id_is_one_line():
    with pytest.raises(InputError, match="someone/nothing: no such folder, and the Hub download failed: ") as caught:
        find_model("someone/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_corrupt_file_is_named(folder, damage):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-20], "garbage": b"\x00" * 64, "empty": b""}[damage])
    with pytest.raises(InputError, match=r"model.safetensors: not a readable safetensors file"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-7.safetensors"}}))
    with pytest.raises(InputError, match=r"model-7.safetensors: missing"):
        open_checkpoint(folder)


def test_a_tensor_stored_twice_is_refused(folder):
    shutil.move(folder / "model.safetensors", folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    with pytest.raises(InputError, match=r"also in a.safetensors"):
        open_checkpoint(folder)


def test_sharded_pickles(tmp_path):
    shards = {"pytorch_model-00001-of-00002.bin": ["a"], "pytorch_model-00002-of-00002.bin": ["b"]}
    for file, names in shards.items():
        torch.save({f"layers.0.{name}.weight": torch.randn(4, 4) for name in names}, tmp_path / file)
    weight_map = {f"layers.0.{name}.weight": file for file, names in shards.items() for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert list(open_checkpoint(tmp_path).modules()) == ["layers.0.a", "layers.0.b"]


def test_a_text_model_inside_another_is_read_by_its_own_configuration(folder):
    config = {"model_type": "whole", "num_attention_heads": 16, "text_config": {"model_type": "gpt2", "n_head": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    found = open_checkpoint(folder).config
    assert (found["model_type"], found["n_head"], found["num_attention_heads"]) == ("gpt2", 2, 16)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config.json: expected an object, found list"):
        open_checkpoint(folder)


def test_a_checkpoint_is_found_again_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert open_checkpoint(folder.name).source == str(folder)
    assert open_checkpoint(folder.name).name == folder.name


def test_weights_tell_two_trainings_apart_that_a_fingerprint_does_not(folder, tmp_path):
    whole = open_checkpoint(folder)
    other = tmp_path / "other"
    other.mkdir()
    save_file({name: tensor + 1 for name, tensor in WEIGHTS.items()}, other / "model.safetensors")
    assert open_checkpoint(other).fingerprint == whole.fingerprint
    assert open_checkpoint(other).weights != whole.weights == open_checkpoint(folder).weights


def test_fused_parts_count_together_as_one_module(tmp_path):
    save_file({"layers.0.attn.c_attn.weight": torch.randn(4, 12)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_head": 2}')
    checkpoint = open_checkpoint(tmp_path)
    assert [matrix.shape for matrix in checkpoint.contents[0]] == [(4, 4)] * 3
    assert checkpoint.modules() == {"layers.0.attn.c_attn": (12, 4)}


def test_convolutions_are_no_linear_modules(tmp_path):
    save_file({"layers.0.conv.weight": torch.randn(4, 3, 2)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert [matrix.name for matrix in checkpoint.contents[0]] == ["layers.0.conv"]
    assert checkpoint.modules() == {}


def test_an_index_without_a_map_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(InputError, match=r"model.safetensors.index.json: no weight_map in the index"):
        open_checkpoint(folder)


def test_of_two_formats_the_one_is_read_that_transformers_loads(folder):
    """A single file goes before an index, whatever the index says."""
    save_file({"layers.0.q.weight": torch.zeros(2, 2)}, folder / "model-00001-of-00001.safetensors")
    weight_map = {"layers.0.q.weight": "model-00001-of-00001.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    assert [file.name for file in open_checkpoint(folder).files] == ["model.safetensors"]


@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "", ".", "a.bin", "a\0.safetensors", 3, None, ["a"], {"a": 1}],
)
def test_an_index_cannot_point_outside_its_folder(folder, shard):
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"layers.0.q.weight": shard}}))
    with pytest.raises(
        InputError, match=r"index.json: tensor 'layers.0.q.weight' is said to be in .*; a shard is a .safetensors file beside"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(
    ("put", "what"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused_and_not_waited_for(folder, name, put, what):
    (folder / name).unlink(missing_ok=True)
    put(folder / name)
    with pytest.raises(InputError, match=rf"{name}: {what}"):
        open_checkpoint(folder)


def test_a_digest_is_of_every_byte(folder):
    before = open_checkpoint(folder).digest
    assert open_checkpoint(folder).digest == before
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert open_checkpoint(folder).digest != before
