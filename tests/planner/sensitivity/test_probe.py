import copy

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import SensitivityReport, join, probe
from planner.modules.fused_experts import is_experts
from planner.sensitivity.probe import example_losses
from planner.sensitivity.report import STATISTICS
from planner.sensitivity.statistics import EVERY, gradient_statistics, squared_norm, stability
from spectra import InputError
from tests.reference.gradients import reference_statistics

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ROUTED = SMALL | {"num_key_value_heads": 1, "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_bert(labels=3):
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=labels)).double()


def tiny_llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)).double()


def tiny_moe(family):
    """A model of routed experts; `family` is a key of MOE."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MOE[family](), experts_implementation="eager")  # others lack float64
    for parameter in model.parameters():  # some families start their biases and routers at zero
        if parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.double()


MOE = {
    "olmoe": lambda: transformers.OlmoeConfig(**ROUTED, num_experts=4),
    "mixtral": lambda: transformers.MixtralConfig(**ROUTED, num_local_experts=4),
    "gpt-oss": lambda: transformers.GptOssConfig(**ROUTED, num_local_experts=4, head_dim=8),
    "qwen3": lambda: transformers.Qwen3MoeConfig(**ROUTED, num_experts=4, moe_intermediate_size=12, head_dim=8),
}


class PlainModel(torch.nn.Module):
    """No transformers layers inside."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"lin": torch.nn.Linear(2, 2)})])

    def get_input_embeddings(self):
        return self.layers[0]["lin"]


def classification_batch():
    mask = torch.ones(9, 9, dtype=torch.long)
    mask[1, 5:] = 0
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (9, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(9) % 3}


def language_batch():
    batch = classification_batch()
    return batch | {"labels": batch["input_ids"].where(batch["attention_mask"].bool(), -100)}


def plain_loss(model, example):
    """Cross-entropy in float64; transformers' own loss of a language model rounds to float32."""
    logits = model(input_ids=example["input_ids"], attention_mask=example["attention_mask"]).logits
    labels = example["labels"]
    if labels.ndim == 2:
        logits, labels = logits[0, :-1], labels[0, 1:]
    return torch.nn.functional.cross_entropy(logits, labels)


def cuts(model, names):
    """Where plain autograd finds each site: its parameter, and how to cut its matrix out of it."""
    modules = dict(model.named_modules())
    found = {}
    for name in names:
        if name in modules:
            found[name] = (modules[name].weight, lambda tensor: tensor)
            continue
        path, expert, part = name.rsplit(".", 2)
        found[name] = expert_cut(modules[path], int(expert), part)
    return found


def expert_cut(module, expert, part):
    def split(tensor):
        matrix = tensor[expert].T if module.is_transposed else tensor[expert]
        if part == "down_proj":
            return matrix
        if not module.is_concatenated:
            return matrix[0::2] if part == "gate_proj" else matrix[1::2]
        gate, up = matrix.chunk(2)
        return gate if part == "gate_proj" else up

    return (module.down_proj if part == "down_proj" else module.gate_up_proj), split


def agree(model, batch, **options):
    report = probe(model, [batch], **options)
    reference = reference_statistics(model.eval(), batch, cuts(model, [site.name for site in report.sites]), plain_loss)
    for site in report.sites:
        values = np.array(reference[site.name])
        for statistic, column in zip(STATISTICS, values.T, strict=True):
            (estimate,) = site.of(statistic)
            column = column if statistic == "squared-gradient" else column[::EVERY]
            assert estimate.mean == pytest.approx(column.mean(), rel=1e-9, abs=1e-18), (site.name, statistic)
            assert estimate.error == pytest.approx(column.std(ddof=1) / len(column) ** 0.5, rel=1e-7, abs=1e-15)
    return report


@pytest.mark.parametrize(("model", "batch", "sites"), [(tiny_bert, classification_batch, 12), (tiny_llama, language_batch, 14)])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_equals_plain_autograd(model, batch, sites, gradient_checkpointing):
    assert len(agree(model(), batch(), gradient_checkpointing=gradient_checkpointing).sites) == sites


@pytest.mark.parametrize("family", sorted(MOE))
def test_routed_experts_equal_plain_autograd_and_are_counted(family):
    model, batch = tiny_moe(family), language_batch()
    chosen = {}
    for name, module in model.named_modules():
        if is_experts(module):
            module.register_forward_pre_hook(lambda _m, args, name=name: chosen.update({name: args[1:]}))
    model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    model = tiny_moe(family)
    report = agree(model, batch)
    routed = {site.name: site for site in report.sites if site.routing}
    assert len(routed) == 2 * 4 * 3
    real = batch["attention_mask"].flatten().bool()
    for name, (index, weights) in chosen.items():
        for expert in range(4):
            picked = (index == expert) & real[:, None]
            for part in ("gate_proj", "up_proj", "down_proj"):
                (routing,) = routed[f"{name}.{expert}.{part}"].routing
                assert routing.frequency == pytest.approx(float(picked.sum() / real.sum()))
                if picked.any():
                    assert routing.weight == pytest.approx(float(weights[picked].detach().mean()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 10), st.integers(1, 10), st.integers(0, 999))
def test_statistics_of_one_gradient(tokens, d_in, d_out, seed):
    generator = torch.Generator().manual_seed(seed)
    x, d, W = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
               ((tokens, d_in), (tokens, d_out), (d_out, d_in)))  # fmt: skip
    G = torch.einsum("to,ti->oi", d, x)
    expected = torch.stack([(G**2).sum(), (G * W).abs().sum(), (G * W).sum().abs(), ((G * W) ** 2).sum()])
    torch.testing.assert_close(gradient_statistics(x, d, W), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(squared_norm(x, d), expected[0], rtol=1e-10, atol=1e-12)


def test_gradient_checkpointing_is_undone_and_needs_support():
    model = tiny_llama().train()
    probe(model, [language_batch()], gradient_checkpointing=True)
    assert model.training
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    with pytest.raises(InputError, match="does not support gradient checkpointing"):
        probe(PlainModel(), [classification_batch()], gradient_checkpointing=True)


def test_stability_of_a_clear_ranking_and_of_noise():
    rng = np.random.default_rng(0)
    levels = 2.0 ** np.arange(12)
    clear = levels * rng.gamma(20, 1 / 20, (64, 12))
    curve, settled = stability(clear, ["a", "b"] * 6)
    assert [entry.examples for entry in curve] == [4, 8, 16, 32]
    assert settled == 4
    assert curve[-1].overlap == pytest.approx(1, abs=0.1)
    curve, settled = stability(rng.gamma(1, 1, (64, 200)), ["a"] * 200)
    assert settled is None
    assert all(abs(entry.rank_correlation) < 0.15 and abs(entry.overlap) < 0.15 for entry in curve)


def test_a_four_bit_base_is_probed_with_its_dequantised_weights():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = tiny_bert().float()
    layers = [
        (name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and ".layer." in name
    ]
    plain = copy.deepcopy(model)
    for name, module in layers:
        quantised = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, compute_dtype=torch.float32, quant_type="nf4"
        )
        quantised.load_state_dict(module.state_dict())
        quantised.to("cpu")
        dense = bitsandbytes.functional.dequantize_4bit(quantised.weight.data, quantised.weight.quant_state)
        plain.get_submodule(name).weight.data.copy_(dense)
        model.set_submodule(name, quantised)
    one, other = probe(model, [classification_batch()]), probe(plain, [classification_batch()])
    for site, same in zip(one.sites, other.sites, strict=True):
        for statistic in STATISTICS:
            assert site.of(statistic)[0].mean == pytest.approx(same.of(statistic)[0].mean, rel=2e-2)


def test_the_model_is_left_as_it_was():
    model = tiny_bert().train()
    model.classifier.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    probe(model, [classification_batch()])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["classifier.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_split_into_batches_does_not_matter():
    model, batch = tiny_bert(), classification_batch()
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, 9))]
    whole, split = probe(model, [batch]), probe(model, halves)
    for one, other in zip(whole.sites, split.sites, strict=True):
        assert one.squared_gradient[0].mean == pytest.approx(other.squared_gradient[0].mean, rel=1e-9)


def test_example_losses_are_transformers_losses():
    model, batch = tiny_llama().eval(), language_batch()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    singles = [model(**{key: value[i : i + 1] for key, value in batch.items()}).loss for i in range(9)]
    torch.testing.assert_close(example_losses(logits, batch["labels"]).float(), torch.stack(singles))


def test_tasks_are_joined_column_by_column():
    model = tiny_bert()
    one, other = (probe(model, [classification_batch()], task=task) for task in ("a", "b"))
    both = join([one, other])
    assert [task.name for task in both.tasks] == ["a", "b"]
    assert both.sites[0].squared_gradient == (*one.sites[0].squared_gradient, *other.sites[0].squared_gradient)
    with pytest.raises(InputError, match="'a' appears twice"):
        join([one, one])
    with pytest.raises(InputError, match="of different models"):
        join([one, probe(tiny_llama(), [language_batch()], task="c")])


def test_the_report_survives_the_disk(tmp_path):
    report = probe(tiny_bert(), [classification_batch()])
    report.save(tmp_path / "s.json")
    assert SensitivityReport.load(tmp_path / "s.json") == report


def test_damaged_models_and_empty_data_are_named():
    with pytest.raises(InputError, match="task 'task': no examples"):
        probe(tiny_bert(), [])
    broken = tiny_bert()
    broken.bert.encoder.layer[0].output.dense.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="loss of example 1 is not finite"):
        probe(broken, [classification_batch()])
    with pytest.raises(InputError, match="no linear module inside a numbered layer"):
        probe(torch.nn.Linear(2, 2), [])
