"""Checkpoints of every layout, as transformers writes them: each matrix equals the one that the live model multiplies with."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from spectra import open_checkpoint
from spectra.checkpoint.reader import kernel_slices, slabs
from tests import models


def values(matrix):
    if matrix.kernel:
        return np.stack(list(kernel_slices(matrix)), axis=-1) / np.sqrt(0.5)
    stacked = np.concatenate(list(slabs(matrix, 7)))
    return stacked if matrix.shape[0] >= matrix.shape[1] else stacked.T


@pytest.mark.parametrize("name", models.CONFIGS)
def test_every_tensor_is_analysed_or_listed(name, tmp_path):
    models.build(name).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    matrices, reasons = checkpoint.contents
    stored = {tensor.name: int(np.prod(tensor.shape)) for tensor in checkpoint.tensors}
    analysed = {}
    for matrix in matrices:
        assert values(matrix).shape == (*matrix.shape, *([int(np.prod(matrix.kernel))] if matrix.kernel else []))
        analysed[matrix.tensor.name] = analysed.get(matrix.tensor.name, 0) + values(matrix).size
    assert analysed.keys() | reasons.keys() == stored.keys()
    assert not analysed.keys() & reasons.keys()
    assert all(analysed[tensor] == stored[tensor] for tensor in analysed)  # each weight exactly once
    assert len({matrix.name for matrix in matrices}) == len(matrices)


# transformers renames ViT's modules on loading, so its live names are not the stored ones.
@pytest.mark.parametrize("name", [*models.LANGUAGE_MODELS, "bert", "modernbert", "t5"])
def test_linear_modules_have_the_live_models_names_shapes_and_values(name, tmp_path):
    model = models.build(name)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    shapes, by_module = checkpoint.modules(), {}
    for matrix in checkpoint.contents[0]:
        by_module.setdefault(matrix.module, []).append(matrix)
    for module_name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in module_name:
            weight = module.weight
        elif isinstance(module, transformers.pytorch_utils.Conv1D):
            weight = module.weight.T
        else:
            continue
        assert shapes[module_name] == tuple(weight.shape)
        parts = by_module[module_name]
        ours = sorted(row.tobytes() for part in parts for row in values(part))
        assert ours == sorted(row.tobytes() for row in weight.detach().double().numpy())


@pytest.mark.parametrize(
    ("name", "part", "rows"),
    [
        ("gpt2", "attn.c_attn", lambda W, heads: np.split(W, 3)),
        ("phi3", "self_attn.qkv_proj", lambda W, heads: np.split(W, [32, 48])),
        ("gpt-neox", "attention.query_key_value", lambda W, heads: W.reshape(4, 3, 8, 32).swapaxes(0, 1).reshape(3, 32, 32)),
        ("bloom", "self_attention.query_key_value", lambda W, heads: W.reshape(4, 3, 8, 32).swapaxes(0, 1).reshape(3, 32, 32)),
        ("falcon", "self_attention.query_key_value", lambda W, heads: np.split(W, [32, 40])),
    ],
)
def test_fused_queries_keys_and_values_come_apart(name, part, rows, tmp_path):
    model = models.build(name)
    model.save_pretrained(tmp_path)
    live = next(module for path, module in model.named_modules() if path.endswith(f"0.{part}"))
    weight = live.weight.detach().double().numpy()
    expected = rows(weight.T if name == "gpt2" else weight, 4)
    found = [matrix for matrix in open_checkpoint(tmp_path).contents[0] if f"0.{part}." in matrix.name]
    assert sorted(matrix.name.rpartition(".")[2] for matrix in found) == ["k", "q", "v"]
    for letter, block in zip("qkv", expected, strict=True):
        (matrix,) = (matrix for matrix in found if matrix.name.endswith("." + letter))
        np.testing.assert_array_equal(values(matrix), block)


@pytest.mark.parametrize("name", [family for family in models.MOE_FAMILIES if family != "gpt-oss"])
def test_experts_are_the_same_however_they_are_stored(name, tmp_path):
    model = models.build(name)
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    single, fused = (open_checkpoint(tmp_path / kind).contents[0] for kind in ("single", "fused"))
    assert any(len(matrix.tensor.shape) == 3 for matrix in fused)
    routed = [{m.name: values(m) for m in matrices if ".experts." in m.name} for matrices in (single, fused)]
    assert routed[0].keys() == routed[1].keys()
    assert len(routed[0]) >= 4 * 3
    for expert in routed[0]:
        np.testing.assert_array_equal(routed[0][expert], routed[1][expert])


def test_gpt_oss_experts_are_transposed_and_interleaved(tmp_path):
    model = models.build("gpt-oss")
    model.save_pretrained(tmp_path)
    experts = model.model.layers[1].mlp.experts
    found = {matrix.name: values(matrix) for matrix in open_checkpoint(tmp_path).contents[0]}
    path = "model.layers.1.mlp.experts.2"
    gate_up = experts.gate_up_proj[2].detach().double().numpy()
    np.testing.assert_array_equal(found[f"{path}.gate_proj"], gate_up[:, ::2].T)
    np.testing.assert_array_equal(found[f"{path}.up_proj"], gate_up[:, 1::2].T)
    np.testing.assert_array_equal(found[f"{path}.down_proj"], experts.down_proj[2].detach().double().numpy().T)


def test_a_multihead_attention_without_modules(tmp_path):
    weight = torch.randn(36, 12)
    save_file({"layers.0.attn.in_proj_weight": weight, "layers.0.attn.out_proj.weight": torch.randn(12, 12)},
              tmp_path / "model.safetensors")  # fmt: skip
    found = {matrix.name: values(matrix) for matrix in open_checkpoint(tmp_path).contents[0]}
    for letter, block in zip("qkv", weight.double().numpy().reshape(3, 12, 12), strict=True):
        np.testing.assert_array_equal(found[f"layers.0.attn.in_proj.{letter}"], block)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"qweight": torch.ones(8, 8, dtype=torch.int32), "scales": torch.ones(2, 8).half()}, "GPTQ or AWQ codes"),
        ({"weight": torch.ones(32, 1, dtype=torch.uint8), "weight.absmax": torch.ones(4, 4)}, "bitsandbytes 4-bit codes"),
        ({"weight_packed": torch.ones(4, 4, dtype=torch.int32), "weight_scale": torch.ones(4, 4)}, "compressed-tensors codes"),
        ({"weight": torch.ones(4, 4, dtype=torch.int8)}, "int8 codes without a scale"),
        ({"w1_blocks": torch.ones(4, 4, dtype=torch.uint8), "w1_scales": torch.ones(4, 4, dtype=torch.uint8)}, "MXFP4 codes"),
    ],
)  # fmt: skip
def test_codes_are_refused_by_name_and_never_analysed(tmp_path, tensors, reason):
    stored = {f"layers.0.q.{name}": tensor for name, tensor in tensors.items()}
    save_file(stored | {"layers.1.q.weight": torch.randn(8, 8)}, tmp_path / "model.safetensors")
    matrices, reasons = open_checkpoint(tmp_path).contents
    assert [matrix.name for matrix in matrices] == ["layers.1.q"]
    assert reasons.keys() == stored.keys()
    assert all(reason in text for text in reasons.values())


@pytest.mark.parametrize(
    ("codes", "scale"),
    [((200, 150), (4, 3)), ((200, 150), (200, 2)), ((8, 8), (4,)), ((4, 4, 3), (4,)), ((4,), (1,)), ((), (1,))],
)
def test_a_scale_of_an_unknown_layout_is_named_and_its_codes_left_out(tmp_path, codes, scale):
    stored = {"layers.0.q.weight": torch.ones(codes, dtype=torch.int8), "layers.0.q.weight_scale": torch.ones(scale)}
    save_file(stored | {"layers.1.q.weight": torch.randn(8, 8)}, tmp_path / "model.safetensors")
    matrices, reasons = open_checkpoint(tmp_path).contents
    assert [matrix.name for matrix in matrices] == ["layers.1.q"]
    assert reasons["layers.0.q.weight"].startswith(f"8-bit codes of shape {list(codes)} with a scale of shape {list(scale)}")


def test_without_a_configuration_what_depends_on_heads_stays_whole(tmp_path):
    models.build("phi3").save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    names = {matrix.name.removeprefix("model.layers.0.") for matrix in open_checkpoint(tmp_path).contents[0]}
    assert {"self_attn.qkv_proj", "mlp.gate_up_proj.gate", "mlp.gate_up_proj.up"} <= names


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("layers.0.norm.weight", torch.ones(4), "1-D, no weight matrix"),
        ("layers.0.table", torch.ones(4, 4), "2-D, no weight matrix"),
        ("layers.0.q.weight", torch.zeros(0, 4), "empty, shape [0, 4]"),
        ("layers.0.mask.weight", torch.ones(4, 4, dtype=torch.bool), "dtype BOOL, no weights: not analysed"),
    ],
)
def test_a_tensor_that_holds_no_matrix_has_its_reason(tmp_path, name, tensor, reason):
    save_file({name: tensor}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).contents == ((), {name: reason})
