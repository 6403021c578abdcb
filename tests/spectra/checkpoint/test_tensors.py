"""One stored tensor."""

from pathlib import Path

from spectra.checkpoint.tensors import Tensor


def test_a_tensor_has_its_own_name_in_its_file_unless_told_otherwise():
    tensor = Tensor(name="layer.weight", shape=(2, 3), dtype="F32", file=Path("model.safetensors"))
    assert (tensor.stored, tensor.expert) == ("", None)
