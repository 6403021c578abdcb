"""Stored tensors, from safetensors files and from pickles."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra import InputError, open_checkpoint
from spectra.checkpoint.reader import whole
from spectra.checkpoint.tensor_files import headers, sample, sliced
from spectra.checkpoint.tensors import Tensor

STORED = {"b": torch.randn(6, 4), "a": torch.arange(3), "c": torch.randn(2, 2, 2).to(torch.bfloat16)}
WAYS = {"x.safetensors": save_file, "pytorch_model.bin": torch.save}


@pytest.mark.parametrize("name", WAYS)
def test_headers_say_name_shape_and_dtype_alike_in_both_formats(tmp_path, name):
    WAYS[name](STORED, file := tmp_path / name)
    found = {tensor.name: tensor for tensor, owner in headers(file) if owner is None}
    assert found == {
        "a": Tensor(name="a", shape=(3,), dtype="I64", file=file),
        "b": Tensor(name="b", shape=(6, 4), dtype="F32", file=file),
        "c": Tensor(name="c", shape=(2, 2, 2), dtype="BF16", file=file),
    }


@pytest.mark.parametrize("name", WAYS)
def test_slices_are_torch_tensors(tmp_path, name):
    WAYS[name](STORED, tmp_path / name)
    tensor = Tensor(name="b", shape=(6, 4), dtype="F32", file=tmp_path / name)
    with sliced(tensor) as stored:
        assert torch.equal(stored[1:3, 2:], STORED["b"][1:3, 2:])


def test_a_sample_is_the_first_and_the_middle_row_whatever_the_format(tmp_path):
    samples = []
    for name, write in WAYS.items():
        write(STORED | {"d": torch.tensor(1.0), "e": torch.zeros(0, 4)}, tmp_path / name)
        samples.append(list(sample(tensor for tensor, _ in headers(tmp_path / name))))
    assert samples[0] == samples[1]
    assert samples[0][0] == np.array([0, 1]).tobytes()
    assert samples[0][1] == STORED["b"][[0, 3]].numpy().tobytes()
    assert samples[0][3:] == [b"", b""]


@pytest.mark.parametrize("content", [[1, 2], {"a.weight": 3}])
def test_a_pickle_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not a state dict: it holds something other than named tensors"):
        list(headers(tmp_path / "pytorch_model.bin"))


def test_pickles_are_read_but_never_executed(tmp_path):
    state = {"layers.0.a.weight": torch.randn(8, 6), "head.weight": torch.randn(5, 6)}
    state["tied.weight"] = state["head.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.contents[1] == {"tied.weight": "tied: shares the storage of head.weight"}
    for matrix in checkpoint.contents[0]:
        np.testing.assert_array_equal(whole(matrix.tensor), state[matrix.tensor.name].double().numpy())
    assert checkpoint.parameters == 48 + 30

    class Bomb:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"a.weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not a readable torch checkpoint"):
        open_checkpoint(tmp_path)
