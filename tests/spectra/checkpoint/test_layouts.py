"""Checkpoints of every layout, as transformers writes them: each matrix equals the one that the live model multiplies with."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import spectra
from spectra import InputError, open_checkpoint
from spectra.checkpoint.reader import kernel_slices, slabs

BASE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = BASE | {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
EXPERTS = GROUPED | {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
DEEPSEEK = EXPERTS | {
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
TOKENS = {"bos_token_id": 0, "eos_token_id": 0}
LANGUAGE_MODELS = {
    "llama": transformers.LlamaConfig(**GROUPED),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, **TOKENS),
    "phi3": transformers.Phi3Config(**GROUPED),
    "gpt-neox": transformers.GPTNeoXConfig(**BASE, **TOKENS),
    "bloom": transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, **TOKENS),
    "falcon": transformers.FalconConfig(**BASE, **TOKENS),
    "falcon-grouped": transformers.FalconConfig(**BASE, **TOKENS, num_kv_heads=2, new_decoder_architecture=True),
    "mixtral": transformers.MixtralConfig(**GROUPED, num_local_experts=4),
    "qwen3-moe": transformers.Qwen3MoeConfig(**EXPERTS, num_experts=4, head_dim=8),
    "olmoe": transformers.OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "deepseek-v2": transformers.DeepseekV2Config(**DEEPSEEK),
    "deepseek-v3": transformers.DeepseekV3Config(**DEEPSEEK),
    "gpt-oss": transformers.GptOssConfig(**GROUPED, num_local_experts=4, head_dim=8),
}
ENCODERS = {
    "vit": transformers.ViTConfig(
        **{key: value for key, value in BASE.items() if key != "vocab_size"}, image_size=32, patch_size=8
    ),
    "modernbert": transformers.ModernBertConfig(**BASE, pad_token_id=0),
    "t5": transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
}


def build(name):
    torch.manual_seed(0)
    if name in LANGUAGE_MODELS:
        return transformers.AutoModelForCausalLM.from_config(LANGUAGE_MODELS[name])
    return transformers.AutoModel.from_config(ENCODERS[name])


def values(matrix):
    if matrix.kernel:
        return np.stack(list(kernel_slices(matrix)), axis=-1) / np.sqrt(0.5)
    stacked = np.concatenate(list(slabs(matrix, 7)))
    return stacked if matrix.shape[0] >= matrix.shape[1] else stacked.T


@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, *ENCODERS])
def test_every_tensor_is_analysed_or_listed(name, tmp_path):
    build(name).save_pretrained(tmp_path)
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
@pytest.mark.parametrize("name", [*LANGUAGE_MODELS, "modernbert", "t5"])
def test_linear_modules_have_the_live_models_names_shapes_and_values(name, tmp_path):
    model = build(name)
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
    model = build(name)
    model.save_pretrained(tmp_path)
    live = next(module for path, module in model.named_modules() if path.endswith(f"0.{part}"))
    weight = live.weight.detach().double().numpy()
    expected = rows(weight.T if name == "gpt2" else weight, 4)
    found = [matrix for matrix in open_checkpoint(tmp_path).contents[0] if f"0.{part}." in matrix.name]
    assert sorted(matrix.name.rpartition(".")[2] for matrix in found) == ["k", "q", "v"]
    for letter, block in zip("qkv", expected, strict=True):
        (matrix,) = (matrix for matrix in found if matrix.name.endswith("." + letter))
        np.testing.assert_array_equal(values(matrix), block)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "olmoe", "deepseek-v2", "deepseek-v3"])
def test_experts_are_the_same_however_they_are_stored(name, tmp_path):
    model = build(name)
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
    model = build("gpt-oss")
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


def test_a_convolution_is_pooled_as_weightwatcher_does(tmp_path):
    kernel = torch.randn(16, 12, 3, 3)
    save_file({"layers.0.conv.weight": kernel}, tmp_path / "model.safetensors")
    (site,) = spectra.analyze(tmp_path).sites
    slices = kernel.double().numpy().reshape(16, 12, 9)
    pooled = np.concatenate([np.linalg.svd(slices[:, :, place], compute_uv=False) ** 2 / 2 for place in range(9)])
    assert site.n_eigenvalues == 108
    assert site.alpha == pytest.approx(spectra.fit(pooled).alpha, rel=1e-9)


def test_pickles_are_read_but_never_executed(tmp_path):
    state = {"layers.0.a.weight": torch.randn(8, 6), "head.weight": torch.randn(5, 6)}
    state["tied.weight"] = state["head.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.contents[1] == {"tied.weight": "tied: shares the storage of head.weight"}
    for matrix in checkpoint.contents[0]:
        np.testing.assert_array_equal(values(matrix), state[matrix.tensor.name].double().numpy())
    assert checkpoint.parameters == 48 + 30

    class Bomb:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"a.weight": Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not a readable torch checkpoint"):
        open_checkpoint(tmp_path)


def test_sharded_pickles(tmp_path):
    shards = {"pytorch_model-00001-of-00002.bin": ["a"], "pytorch_model-00002-of-00002.bin": ["b"]}
    for file, names in shards.items():
        torch.save({f"layers.0.{name}.weight": torch.randn(4, 4) for name in names}, tmp_path / file)
    weight_map = {f"layers.0.{name}.weight": file for file, names in shards.items() for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert list(open_checkpoint(tmp_path).modules()) == ["layers.0.a", "layers.0.b"]


def test_fp8_with_block_scales_is_dequantised(tmp_path):
    codes = torch.randn(200, 150).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 2) + 0.5
    tensors = {"layers.0.q.weight": codes, "layers.0.q.weight_scale_inv": scales}
    save_file(tensors, tmp_path / "model.safetensors")
    matrices, reasons = open_checkpoint(tmp_path).contents
    expected = codes.double() * scales.double().repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :150]
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


def test_bf16_and_fp16_copies_have_the_rounded_weights(tmp_path):
    model = build("llama")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model.to(dtype).save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        for matrix in open_checkpoint(tmp_path).contents[0]:
            np.testing.assert_array_equal(values(matrix), stored[matrix.tensor.name].double().numpy())
