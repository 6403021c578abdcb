import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra import InputError, open_checkpoint
from spectra.checkpoint.folder import locate
from spectra.checkpoint.reader import slabs

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


@pytest.mark.parametrize("block", [1, 3, 100])
def test_blocks_stack_to_the_matrix_or_its_transpose(folder, block):
    for matrix in open_checkpoint(folder).contents[0]:
        expected = WEIGHTS[matrix.tensor.name].double().numpy()
        expected = expected if matrix.shape[0] >= matrix.shape[1] else expected.T
        np.testing.assert_array_equal(np.concatenate(list(slabs(matrix, block))), expected)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"/no/such: no such folder"):
        open_checkpoint("/no/such")
    with pytest.raises(InputError, match=r"no weights: neither .*safetensors nor"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not a readable torch checkpoint"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="a file; give the model's folder"):
        locate(tmp_path / "pytorch_model.bin")


def test_an_unknown_hub_id_is_one_line():
    with pytest.raises(InputError, match="someone/nothing: no such folder, and not to be had from the hub") as caught:
        locate("someone/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_corrupt_file_is_named(folder, damage):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-20], "garbage": b"\x00" * 64, "empty": b""}[damage])
    with pytest.raises(InputError, match=r"model.safetensors: not a readable safetensors file"):
        open_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-7.safetensors"}}))
    with pytest.raises(InputError, match=r"model-7.safetensors: missing"):
        open_checkpoint(folder)


def test_a_tensor_stored_twice_is_refused(folder):
    shutil.move(folder / "model.safetensors", folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    with pytest.raises(InputError, match=r"also in a.safetensors"):
        open_checkpoint(folder)
