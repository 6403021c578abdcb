"""LoRA on the fused experts of mixture-of-experts models, against a loop and from plan to merged model."""

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import planner
import spectra
from planner.modules.fused_experts import expert_weight, fused_parts, is_experts
from spectra import InputError, open_checkpoint
from tests.reference.expert_lora import reference_experts
from trainer import TrainSettings, apply_plan, evaluate, load_adapters, merge, train
from trainer.adapters.merge import merged
from trainer.layers.expert_lora import ExpertLora, _has_kernel, adapt, expert_loras, grouped
from trainer.layers.inject import trainable_parameters

SIZE = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 24, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
DEEPSEEK = {"num_key_value_heads": 2, "n_routed_experts": 4, "moe_intermediate_size": 12, "n_group": 1, "topk_group": 1,
            "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
            "qk_nope_head_dim": 8}  # fmt: skip
FAMILIES = {
    "olmoe": lambda: transformers.OlmoeConfig(**SIZE, num_experts=4),
    "qwen3": lambda: transformers.Qwen3MoeConfig(**SIZE, num_experts=4, moe_intermediate_size=12, head_dim=8),
    "mixtral": lambda: transformers.MixtralConfig(**SIZE, num_local_experts=4),
    "deepseek-v2": lambda: transformers.DeepseekV2Config(**(SIZE | DEEPSEEK)),
    "deepseek-v3": lambda: transformers.DeepseekV3Config(**(SIZE | DEEPSEEK)),
    "gpt-oss": lambda: transformers.GptOssConfig(**SIZE, num_local_experts=4, head_dim=8),
}


def make(family, dtype=torch.float32):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
    for parameter in model.parameters():  # routers and biases that start at zero would hide mistakes
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype)


def experts_of(model):
    return next(module for module in model.modules() if is_experts(module))


def matrices(experts):
    """Per expert, projection -> (weight, bias), as autograd constants."""
    found = []
    for expert in range(len(experts.down_proj)):
        entry = {}
        for tensor, parts in fused_parts(experts).items():
            bias = getattr(experts, f"{tensor}_bias")[expert].detach() if experts.has_bias else None
            for part, outputs in parts.items():
                weight = expert_weight(experts, expert, tensor, outputs).detach()
                entry[part] = (weight, None if bias is None else bias[outputs])
        found.append(entry)
    return found


def activation(experts):
    def join(gate, up):
        both = torch.cat([gate, up]) if experts.is_concatenated else torch.stack([gate, up], dim=-1).flatten()
        return experts._apply_gate(both[None])[0]

    return join


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(1, 9), st.data())
def test_values_and_gradients_equal_the_loop(family, tokens, data):
    experts = experts_of(make(family, torch.float64))
    ranks = {
        part: data.draw(st.lists(st.integers(0, 5), min_size=4, max_size=4)) for part in ("gate_proj", "up_proj", "down_proj")
    }
    if not any(map(any, ranks.values())):
        ranks["up_proj"][1] = 2
    ranks = {part: given_ranks for part, given_ranks in ranks.items() if any(given_ranks)}
    torch.manual_seed(data.draw(st.integers(0, 99)))
    lora = ExpertLora(experts, ranks, lora_alpha=3.0)
    for part, given_ranks in ranks.items():
        for expert, rank in enumerate(given_ranks):
            torch.nn.init.normal_(lora.B[part].data[expert, :, :rank])
    adapt(experts, lora)
    hidden = torch.randn(tokens, 32, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(tokens)])
    weights = torch.rand(tokens, 2, dtype=torch.float64, requires_grad=True)
    leaves = [
        {
            part: (
                lora.A[part][expert, :rank].detach().clone().requires_grad_(),
                lora.B[part][expert, :, :rank].detach().clone().requires_grad_(),
                float(lora.scale(part)[expert]),
            )
            for part, given_ranks in ranks.items()
            if (rank := given_ranks[expert])
        }
        for expert in range(4)
    ]
    theirs_hidden, theirs_weights = (value.detach().clone().requires_grad_() for value in (hidden, weights))
    ours = experts(hidden, index, weights)
    theirs = reference_experts(theirs_hidden, index, theirs_weights, matrices(experts), activation(experts), leaves)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(ours, theirs, **close)
    direction = torch.randn_like(ours)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    torch.testing.assert_close(hidden.grad, theirs_hidden.grad, **close)
    torch.testing.assert_close(weights.grad, theirs_weights.grad, **close)
    for expert, parts in enumerate(leaves):
        for part, (A, B, _) in parts.items():
            rank = len(A)
            for mine, other in ((lora.A[part].grad[expert, :rank], A.grad), (lora.B[part].grad[expert, :, :rank], B.grad)):
                torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, **close)
            assert lora.A[part].grad[expert, rank:].abs().sum() == 0
            assert lora.B[part].grad[expert, :, rank:].abs().sum() == 0


def test_grouped_products_equal_the_loop_in_single_precision():
    torch.manual_seed(0)
    x, weight = torch.randn(20, 16, requires_grad=True), torch.randn(5, 16, 8, requires_grad=True)
    offsets = torch.tensor([3, 3, 10, 19, 20], dtype=torch.int32)
    y = grouped(x, weight, offsets)
    expected = grouped(x.double(), weight.double(), offsets)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(y)
    ours = torch.autograd.grad((y * direction).sum(), (x, weight))
    theirs = torch.autograd.grad((expected * direction).sum(), (x, weight))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_padding_stays_zero_through_the_optimiser():
    experts = experts_of(make("olmoe"))
    lora = ExpertLora(experts, {"up_proj": [1, 3, 8, 0], "down_proj": [12, 5, 2, 9]}, lora_alpha=4.0)
    adapt(experts, lora)
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(30):
        hidden = torch.randn(16, 32)
        index = torch.stack([torch.randperm(4)[:2] for _ in range(16)])
        experts(hidden, index, torch.rand(16, 2)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    assert {part: tuple(lora.A[part].shape) for part in lora.A} == {"up_proj": (4, 8, 32), "down_proj": (4, 16, 24)}
    for part, ranks in lora.ranks.items():
        for expert, rank in enumerate(ranks):
            assert lora.A[part][expert, rank:].abs().sum() == 0
            assert lora.B[part][expert, :, rank:].abs().sum() == 0
            assert (lora.B[part][expert, :, :rank].abs().amax(0) > 0).all()  # while every real column has moved


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request, tiny_llama, tmp_path_factory):
    """A tiny model of a family with the tiny Llama's tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    make(request.param).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


def logits(model):
    ids = torch.arange(5, 29).reshape(2, 12)
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


SHORT = TrainSettings(max_steps=8, batch_size=8, max_length=32, learning_rate=2e-2, precision="fp32")


def test_from_checkpoint_to_merged_model(checkpoint, sentences, tmp_path):
    from trainer import load_sample

    opened = open_checkpoint(checkpoint)
    sample = load_sample(opened, sentences, samples=8, max_length=32, seed=0)
    sensitivity = planner.probe(sample.model, sample.batches, checkpoint=opened)
    report = spectra.analyze(checkpoint)
    plan = planner.allocate(budget="2000", strategy="dr-lora", spectra=report, sensitivity=sensitivity)
    adapted = [site for site in plan.sites if site.ranks]
    assert len({site.ranks for site in adapted}) > 1
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    before = logits(base)
    built = apply_plan(base, plan)
    assert trainable_parameters(built) == plan.parameters
    torch.testing.assert_close(logits(built), before, rtol=1e-5, atol=1e-5)
    train(plan, checkpoint, sentences, tmp_path / "run", SHORT)
    result = evaluate(tmp_path / "run", sentences)
    assert result.trained.loss < result.untrained.loss
    model = load_adapters(tmp_path / "run")
    ours = logits(model)
    assert (ours - before).abs().max() > 1e-3
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False).shape == (1, 6)
    alone = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "run", tmp_path / "merged"), dtype=torch.float32)
    torch.testing.assert_close(ours, logits(alone), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["peft_type"] == "LORAPLAN_MIXTURE"


def test_runs_on_experts_resume_to_the_same_bits(checkpoint, sentences, tmp_path):
    if "olmoe" not in checkpoint.name:
        pytest.skip("one family is enough")
    plan = planner.allocate(budget="20k", strategy="random", model=open_checkpoint(checkpoint))
    assert any(site.ranks for site in plan.sites if site.routed)
    assert any(site.ranks for site in plan.sites if not site.routed)

    def kill(step, _steps, _loss):
        if step == 5:
            raise RuntimeError("killed")

    train(plan, checkpoint, sentences, tmp_path / "whole", SHORT)
    with pytest.raises(RuntimeError, match="killed"):
        train(plan, checkpoint, sentences, tmp_path / "cut", SHORT, progress=kill)
    train(plan, checkpoint, sentences, tmp_path / "cut", SHORT, resume=True)
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == other


def test_merging_in_memory_removes_every_trace():
    model = make("gpt-oss")
    names = dict(model.named_parameters()).keys()
    experts = experts_of(model)
    lora = ExpertLora(experts, {"gate_proj": [2, 0, 1, 3]}, lora_alpha=1.0)
    for expert, rank in enumerate(lora.ranks["gate_proj"]):
        torch.nn.init.normal_(lora.B["gate_proj"].data[expert, :, :rank])
    adapt(experts, lora)
    before = logits(model)
    torch.testing.assert_close(logits(merged(model)), before, rtol=1e-4, atol=1e-5)
    assert dict(model.named_parameters()).keys() == names
    assert expert_loras(model) == {}


def test_impossible_ranks_are_refused(checkpoint):
    experts = experts_of(make("olmoe"))
    with pytest.raises(InputError, match="3 ranks for up_proj, but the layer has 4 experts of gate_proj, up_proj, down_proj"):
        ExpertLora(experts, {"up_proj": [1, 1, 1]}, lora_alpha=1.0)
    with pytest.raises(InputError, match="4 ranks for k_proj"):
        ExpertLora(experts, {"k_proj": [1, 1, 1, 1]}, lora_alpha=1.0)


def test_a_gpu_without_the_kernel_is_told_and_gets_the_loop(monkeypatch):
    """The answer of a Volta's driver, taken down; the loop itself is compared with the reference above."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    with pytest.warns(UserWarning, match="Tesla V100 has no grouped products: experts run one by one, slowly"):
        assert not _has_kernel(torch.device("cuda"))
    assert _has_kernel(torch.device("cpu"))
