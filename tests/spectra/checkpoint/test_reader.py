import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra import open_checkpoint
from spectra.checkpoint.layouts import Matrix
from spectra.checkpoint.reader import kernel_slices, slabs, whole
from spectra.checkpoint.tensors import Tensor
from tests import models


def values(matrix):
    stacked = np.concatenate(list(slabs(matrix, 7)))
    return stacked if matrix.shape[0] >= matrix.shape[1] else stacked.T


@pytest.mark.parametrize(("rows", "columns"), [(200, 150), (256, 128), (300, 30), (100, 200), (129, 129), (2, 200), (1, 300)])
def test_fp8_with_block_scales_is_dequantised(tmp_path, rows, columns):
    codes = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-rows // 128), -(-columns // 128)) + 0.5
    tensors = {"layers.0.q.weight": codes, "layers.0.q.weight_scale_inv": scales}
    save_file(tensors, tmp_path / "model.safetensors")
    matrices, reasons = open_checkpoint(tmp_path).contents
    expected = codes.double() * scales.double().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    np.testing.assert_array_equal(values(matrices[0]), expected.numpy())
    assert reasons == {"layers.0.q.weight_scale_inv": "scale of layers.0.q.weight"}


@pytest.mark.parametrize(
    ("scale", "factor"),
    [
        ({"weight_scale": torch.tensor(0.25)}, lambda rows: 0.25),
        ({"weight_scale": torch.rand(40, 1)}, lambda rows: rows["weight_scale"]),
        ({"SCB": torch.rand(40)}, lambda rows: rows["SCB"][:, None] / 127),
    ],
)
def test_scales_per_tensor_and_per_row(tmp_path, scale, factor):
    codes = torch.randint(-127, 128, (40, 30), dtype=torch.int8)
    save_file({"layers.0.q.weight": codes} | {f"layers.0.q.{name}": value for name, value in scale.items()},
              tmp_path / "model.safetensors")  # fmt: skip
    (matrix,), _ = open_checkpoint(tmp_path).contents
    doubles = {name: value.double() for name, value in scale.items()}
    np.testing.assert_allclose(values(matrix), np.asarray(codes.double() * factor(doubles)), rtol=1e-15)


def test_the_scale_of_fused_rows_is_that_of_their_own_rows(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox", "num_attention_heads": 2}')
    codes, scale = torch.randint(-127, 128, (24, 4), dtype=torch.int8), torch.rand(24)
    save_file({"layers.0.query_key_value.weight": codes, "layers.0.query_key_value.SCB": scale}, tmp_path / "model.safetensors")
    matrices, _ = open_checkpoint(tmp_path).contents
    assert [matrix.name.rpartition(".")[2] for matrix in matrices] == ["k", "q", "v"]
    whole = codes.double() * scale.double()[:, None] / 127
    for start, matrix in zip((4, 0, 8), matrices, strict=True):  # four rows of each head
        rows = [*range(start, start + 4), *range(start + 12, start + 16)]
        np.testing.assert_allclose(values(matrix), whole[rows].numpy(), rtol=1e-15)


def test_int8_codes_of_a_conv1d_are_stored_the_other_way_round(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    codes, scale = torch.randint(-127, 128, (12, 8), dtype=torch.int8), torch.rand(12)
    save_file({"h.0.mlp.c_fc.weight": codes, "h.0.mlp.c_fc.SCB": scale}, tmp_path / "model.safetensors")
    (matrix,), _ = open_checkpoint(tmp_path).contents
    assert matrix.shape == (12, 8)
    np.testing.assert_allclose(values(matrix), (codes.double() * scale.double()[:, None] / 127).numpy(), rtol=1e-15)


def test_bf16_and_fp16_copies_have_the_rounded_weights(tmp_path):
    model = models.build("llama")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model.to(dtype).save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        for matrix in open_checkpoint(tmp_path).contents[0]:
            np.testing.assert_array_equal(values(matrix), stored[matrix.tensor.name].double().numpy())


WEIGHTS = {
    "layers.0.q.weight": torch.randn(6, 4),
    "layers.10.q.weight": torch.randn(4, 6, dtype=torch.bfloat16),
    "layers.9.q.weight": torch.randn(5, 5, dtype=torch.float16),
}


@pytest.mark.parametrize("thickness", [1, 3, 100])
def test_slabs_stack_to_the_matrix_or_its_transpose(tmp_path, thickness):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    for matrix in open_checkpoint(tmp_path).contents[0]:
        expected = WEIGHTS[matrix.tensor.name].double().numpy()
        expected = expected if matrix.shape[0] >= matrix.shape[1] else expected.T
        found = list(slabs(matrix, thickness))
        assert [len(slab) for slab in found[:-1]] == [thickness] * (len(found) - 1)
        np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("expert", [None, 2])
@pytest.mark.parametrize("outputs", [(), ((0, 12, 2),), ((2, 4, 1), (9, 12, 1))])
@pytest.mark.parametrize("d_in", [3, 20])
def test_any_rows_of_any_layout_come_in_slabs(tmp_path, transposed, expert, outputs, d_in):
    """Against numpy's own slicing: rows by spans, an expert of a stack, stored either way round, tall and wide."""
    W = np.arange(4 * 12 * d_in, dtype=np.float64).reshape(4, 12, d_in)
    stored = W.swapaxes(1, 2) if transposed else W
    stored = stored if expert is not None else stored[1]
    save_file({"w": torch.from_numpy(np.ascontiguousarray(stored))}, tmp_path / "x.safetensors")
    rows = [row for span in outputs or ((0, 12, 1),) for row in range(*span)]
    tensor = Tensor(name="w", shape=stored.shape, dtype="F64", file=tmp_path / "x.safetensors")
    matrix = Matrix(
        name="w", module="w", shape=(len(rows), d_in), tensor=tensor, outputs=outputs, transposed=transposed, expert=expert
    )  # fmt: skip
    found = np.concatenate(list(slabs(matrix, 5)))
    expected = W[1 if expert is None else expert][rows]
    np.testing.assert_array_equal(found, expected if len(rows) >= d_in else expected.T)
    np.testing.assert_array_equal(whole(tensor), stored)


def test_a_kernels_slices_are_halved_in_square(tmp_path):
    kernel = torch.randn(5, 4, 3, 2)
    save_file({"layers.0.conv.weight": kernel}, tmp_path / "model.safetensors")
    (matrix,) = open_checkpoint(tmp_path).contents[0]
    found = list(kernel_slices(matrix))
    assert len(found) == 6
    np.testing.assert_array_equal(found[3], kernel[:, :, 1, 1].double().numpy() * np.sqrt(0.5))
