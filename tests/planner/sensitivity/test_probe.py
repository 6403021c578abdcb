import copy

import numpy as np
import pytest
import torch

from planner import probe
from planner.modules.fused_experts import is_experts
from planner.modules.labelled import example_losses
from planner.sensitivity.report import STATISTICS
from planner.sensitivity.statistics import EVERY
from spectra import InputError, open_checkpoint
from spectra.checkpoint.names import is_adaptable, parse_name
from tests import models
from tests.reference.effective_rank import reference_effective_rank
from tests.reference.gradients import reference_statistics

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
ROUTED = SMALL | {"num_key_value_heads": 1}


def tiny_bert():
    return models.build("bert", "AutoModelForSequenceClassification", **SMALL, num_labels=3).double()


def tiny_language_model():
    return models.build("llama", **ROUTED).double()


def tiny_moe(family):
    model = models.build(family, options={"experts_implementation": "eager"}, **ROUTED)  # others lack float64
    return models.without_zeros(model).double()


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


@pytest.mark.parametrize(
    ("model", "batch", "sites"), [(tiny_bert, classification_batch, 12), (tiny_language_model, language_batch, 14)]
)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_equals_plain_autograd(model, batch, sites, gradient_checkpointing):
    assert len(agree(model(), batch(), gradient_checkpointing=gradient_checkpointing).sites) == sites


@pytest.mark.parametrize("family", models.EVERY_LAYER_ROUTED)
def test_routed_experts_equal_plain_autograd_and_are_counted(family):
    model, batch = tiny_moe(family), language_batch()
    chosen = {}
    for name, module in model.named_modules():
        if is_experts(module):
            module.register_forward_pre_hook(lambda _m, args, name=name: chosen.update({name: args[1:]}))
    model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    model = tiny_moe(family)
    report = agree(model, batch)
    routed = {site.name: site for site in report.sites if site.usage}
    assert len(routed) == 2 * 4 * 3
    real = batch["attention_mask"].flatten().bool()
    # A token is learned if the next one has a label.
    learned = torch.cat([batch["labels"][:, 1:] != -100, torch.zeros(len(batch["labels"]), 1, dtype=torch.bool)], dim=1).flatten()
    assert 0 < learned.sum() < real.sum()
    for name, (index, weights) in chosen.items():
        for expert in range(4):
            of_all, picked = ((index == expert) & kept[:, None] for kept in (real, learned))
            for part in ("gate_proj", "up_proj", "down_proj"):
                (usage,) = routed[f"{name}.{expert}.{part}"].usage
                assert usage.token_share == pytest.approx(float(picked.sum() / learned.sum()))
                assert usage.all_share == pytest.approx(float(of_all.sum() / real.sum()))
                if picked.any():
                    assert usage.mean_weight == pytest.approx(float(weights[picked].detach().mean()))


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
    model, batch = tiny_language_model().eval(), language_batch()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    singles = [model(**{key: value[i : i + 1] for key, value in batch.items()}).loss for i in range(9)]
    torch.testing.assert_close(example_losses(logits, batch["labels"]).float(), torch.stack(singles))


def test_damaged_models_and_empty_data_are_named():
    with pytest.raises(InputError, match="task 'task': no examples"):
        probe(tiny_bert(), [])
    broken = tiny_bert()
    broken.bert.encoder.layer[0].output.dense.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="loss of example 1 is not finite"):
        probe(broken, [classification_batch()])
    with pytest.raises(InputError, match="no linear module inside a numbered layer"):
        probe(torch.nn.Linear(2, 2), [])


def test_the_probe_knows_every_matrix_of_the_checkpoint(routed):
    adaptable = {name for name in routed["model"].modules() if is_adaptable(name)}
    assert {site.name for site in routed["sensitivity"].sites} == adaptable
    shares = {}
    for site in routed["sensitivity"].sites:
        if site.usage and site.name.endswith(("down_proj", "w2")):
            shares.setdefault(parse_name(site.name).layer, []).append(site.usage[0].token_share)
    assert all(sum(layer) == pytest.approx(2) for layer in shares.values())


def test_a_report_uses_the_names_of_the_checkpoint(tmp_path):
    """A bare encoder's checkpoint lacks the prefix that a classifier adds."""
    models.build("bert", **SMALL).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    named, live = (probe(tiny_bert(), [classification_batch()], checkpoint=given) for given in (checkpoint, None))
    assert [f"bert.{site.name}" for site in named.sites] == [site.name for site in live.sites]
    assert named.sites[0].squared_gradient == live.sites[0].squared_gradient
    assert (named.model.name, named.model.fingerprint) == (tmp_path.name, checkpoint.fingerprint)
    assert (live.model.name, live.model.fingerprint) == ("BertForSequenceClassification", None)


def test_a_checkpoint_of_another_model_is_refused(tiny_llama):
    with pytest.raises(InputError, match=r"module 'bert.encoder.layer.0.* of the model is not in .*tiny-llama"):
        probe(tiny_bert(), [classification_batch()], checkpoint=open_checkpoint(tiny_llama))


def test_progress_counts_examples_after_every_batch():
    seen, batch = [], classification_batch()
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 4), slice(4, 9))]
    probe(tiny_bert(), halves, progress=lambda done, total=None, note="": seen.append((done, total, note)))
    assert seen == [(4, None, ""), (9, None, "")]


def test_losses_of_half_precision_are_computed_in_single():
    logits = torch.tensor([[3.0, 1.0], [0.5, 0.5]], dtype=torch.bfloat16)
    found = example_losses(logits, torch.tensor([0, 1]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([np.log1p(np.exp(-2.0)), np.log(2)], dtype=torch.float32))


def test_an_example_without_labels_has_no_loss():
    logits = torch.zeros(1, 3, 4)
    assert example_losses(logits, torch.tensor([[1, -100, -100]])).tolist() == [0.0]  # its only label has nothing before it


def test_a_probe_of_some_modules_measures_these_as_a_whole_one_does():
    model, batch = tiny_moe("olmoe"), language_batch()
    whole = probe(model, [batch]).by_name()
    part = probe(model, [batch], modules="q_proj,*experts.1.*")
    assert {site.name.rpartition(".")[2] for site in part.sites} == {"q_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(part.sites) == 2 * (1 + 3)
    assert all(site == whole[site.name] for site in part.sites)


def plain_effective_ranks(model, batch, names):
    """Of linear modules, by plain autograd one example at a time: the weights' own gradients, and the inputs at real tokens."""
    modules, inputs = {name: model.get_submodule(name) for name in names}, {name: [] for name in names}
    for name, module in modules.items():
        module.register_forward_hook(lambda _m, args, _output, name=name: inputs[name].append(args[0][0].detach()))
    examples = [{key: value[at : at + 1] for key, value in batch.items()} for at in range(len(batch["labels"]))]
    loss = sum(plain_loss(model, example) for example in examples)
    gradients = torch.autograd.grad(loss, [module.weight for module in modules.values()])
    found = {}
    for name, gradient in zip(modules, gradients, strict=True):
        real = torch.cat([x[mask.bool()] for x, mask in zip(inputs[name], batch["attention_mask"], strict=True)])
        found[name] = reference_effective_rank(gradient.numpy(), (real.mT @ real).numpy())
    return found


@pytest.mark.parametrize(("model", "batch"), [(tiny_bert, classification_batch), (tiny_language_model, language_batch)])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_effective_ranks_equal_those_by_plain_autograd(model, batch, gradient_checkpointing):
    model, batch = model(), batch()
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, 9))]
    report = probe(model, halves, effective_rank=True, gradient_checkpointing=gradient_checkpointing)
    expected = plain_effective_ranks(model.eval(), batch, [site.name for site in report.sites])
    found = {site.name: one for site in report.sites for one in site.effective_rank}
    assert found == pytest.approx(expected, rel=1e-4)  # sums are in single precision
    assert max(found.values()) > 2


def test_effective_ranks_are_measured_beside_the_rest_where_they_are_asked_for():
    model, batch = tiny_bert(), classification_batch()
    without, beside = probe(model, [batch]), probe(model, [batch], effective_rank=True)
    assert all(site.effective_rank == () for site in without.sites)
    assert [site.model_copy(update={"effective_rank": ()}) for site in beside.sites] == list(without.sites)
    some = probe(model, [batch], modules="attention.self.query", effective_rank=True)
    assert [site.effective_rank for site in some.sites] == [beside.by_name()[site.name].effective_rank for site in some.sites]
    assert not any(module._forward_hooks for module in model.modules())


def test_routed_experts_have_no_effective_rank():
    sites = probe(tiny_moe("olmoe"), [language_batch()], effective_rank=True).sites
    assert {".experts." in site.name: len(site.effective_rank) for site in sites} == {True: 0, False: 1}


@pytest.mark.parametrize("effective_rank", [False, True])
def test_a_gradient_that_is_not_finite_is_named(effective_rank):
    model = tiny_bert()
    layer = model.bert.encoder.layer[1].output.dense
    layer.register_full_backward_hook(lambda _m, inputs, _outputs: (inputs[0] * torch.inf,))
    with pytest.raises(InputError, match=r"site 'bert.encoder.layer.[01].*': gradient is not finite; check the model's weights"):
        probe(model, [classification_batch()], effective_rank=effective_rank)


def test_a_report_says_how_long_its_gradients_took(monkeypatch):
    clock = iter([100.0, 103.5])
    monkeypatch.setattr("planner.sensitivity.probe.time.monotonic", lambda: next(clock))
    assert probe(tiny_bert(), [classification_batch()]).tasks[0].seconds == 3.5
