"""Rehearsals: who brought the gain, against finite differences, and from a file to a plan."""

import json

import pytest
import torch
import transformers

import planner
from planner import example_losses
from spectra import InputError, open_checkpoint
from tests.conftest import save_with_tokenizer
from tests.reference.attribution import reference_attribution
from trainer import TrainSettings, apply_plan
from trainer.attribution.attribution import POINTS, adapter_scales, attribute
from trainer.attribution.trial_run import run_trial
from trainer.layers.expert_lora import expert_loras
from trainer.layers.inject import mixtures

SIZE = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZE),
    "olmoe": lambda: transformers.OlmoeConfig(**SIZE, num_experts=3, num_experts_per_tok=2),
}
SHORT = TrainSettings(max_steps=4, batch_size=8, max_length=16, learning_rate=0.02)


def trained(kind, folder):
    """A model in double precision with random adapters everywhere, as after some training."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]()).double()
    model.save_pretrained(folder)
    plan = planner.allocate(budget="rank 2", strategy="uniform", model=open_checkpoint(folder), max_experts=1)
    apply_plan(model, plan)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def columns_of(model):
    """Each site's own part of B, in the order of the model's dials."""
    found = [mixture.B.data for mixture in mixtures(model).values()]
    for lora in expert_loras(model).values():
        found += [lora.B[part].data[expert] for part, ranks in lora.ranks.items() for expert in range(len(ranks))]
    return found


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(1)  # one whose routers do not change their mind within a finite difference
    ids = [torch.randint(3, 40, (2, 7), generator=generator) for _ in range(2)]
    return [{"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows} for rows in ids]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_gain_is_shared_out_as_finite_differences_say(kind, sample, tmp_path):
    model = trained(kind, tmp_path)
    shares = attribute(model, adapter_scales(model), sample)
    for row, batch in enumerate(sample):
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        expected = reference_attribution(
            columns_of(model),
            lambda inputs=inputs, batch=batch: example_losses(model(**inputs).logits, batch["labels"]).mean(),
        )
        torch.testing.assert_close(shares[row], expected, rtol=1e-3, atol=2e-6)  # norms are computed in float32


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_shares_add_up_to_what_the_adapters_take_off(kind, sample, tmp_path):
    model = trained(kind, tmp_path)
    for column in columns_of(model):
        column.mul_(0.01)  # a path straight enough for three points, on which no router changes its mind

    def loss():
        return sum(example_losses(model(batch["input_ids"]).logits, batch["labels"]).mean() for batch in sample) / len(sample)

    after = loss()
    shares = attribute(model, adapter_scales(model), sample)
    assert float(loss()) == float(after), "left as it was found"
    for column in columns_of(model):
        column.zero_()
    assert abs(shares.mean(0).sum() - (loss() - after)) < 0.02 * shares.mean(0).abs().sum()


def test_a_rehearsal_measures_every_site_and_leaves_nothing(tiny_llama, sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = []
    found, loss_reductions = run_trial(
        open_checkpoint(tiny_llama), sentences, SHORT, progress=lambda done, total: seen.append((done, total))
    )
    again, same = run_trial(open_checkpoint(tiny_llama), sentences, SHORT)
    assert (found, loss_reductions) == (again, same)
    assert found.gain.error > 0
    assert len(loss_reductions) == 14
    assert found.gain.mean == pytest.approx(sum(one.mean for one in loss_reductions.values()), rel=1e-9)
    assert (found.steps, found.examples) == (4, 4)
    assert seen == [(done, 4 + POINTS) for done in range(1, 5 + POINTS)]
    assert not any(tmp_path.iterdir())


def test_routed_experts_are_measured_under_the_checkpoints_names(sentences, tmp_path):
    checkpoint = open_checkpoint(save_with_tokenizer(CONFIGS["olmoe"](), tmp_path / "olmoe"))
    _, loss_reductions = run_trial(checkpoint, sentences, SHORT)
    plan = planner.allocate(budget="rank 1", strategy="uniform", model=checkpoint, max_experts=1)
    assert loss_reductions.keys() == {site.name for site in plan.sites}
    assert sum(".experts." in name and one.mean != 0 for name, one in loss_reductions.items()) > 2


def test_too_few_examples_are_one_line(tiny_llama, tmp_path):
    (tmp_path / "few.jsonl").write_text("".join(json.dumps({"text": f"read the file {n}"}) + "\n" for n in range(9)))
    with pytest.raises(InputError, match=r"few.jsonl: 9 examples are too few to keep a tenth for validation"):
        run_trial(open_checkpoint(tiny_llama), tmp_path / "few.jsonl", SHORT)
