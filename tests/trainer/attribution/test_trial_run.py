"""Trial runs: from a file to every module's loss reduction."""

import pytest

from spectra import InputError, open_checkpoint
from tests.trainer.examples import uniform, write_rows
from trainer import TrainSettings
from trainer.attribution.attribution import POINTS
from trainer.attribution.trial_run import LEAST_BATCHES, MEASURED, RANK, STEPS, run_trial, short_run

SHORT = TrainSettings(max_steps=4, batch_size=8, max_length=16, learning_rate=0.02)


def test_language_models_are_tried_by_default_and_classifiers_are_not():
    assert STEPS == {"causal": 30, "classification": 0}


@pytest.mark.training
def test_a_trial_run_measures_every_site_and_leaves_nothing(tiny_llama, sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = []
    found, loss_reductions = run_trial(
        open_checkpoint(tiny_llama), sentences, SHORT, progress=lambda done, total=None, note="": seen.append((done, total))
    )
    again, same = run_trial(open_checkpoint(tiny_llama), sentences, SHORT)
    assert (found, loss_reductions) == (again, same)
    assert found.loss_reduction.error > 0
    assert len(loss_reductions) == 14
    assert found.loss_reduction.mean == pytest.approx(sum(one.mean for one in loss_reductions.values()), rel=1e-9)
    assert (found.steps, found.examples) == (4, 4)
    assert seen == [(done, 4 + POINTS) for done in range(1, 5 + POINTS)]
    assert not any(tmp_path.iterdir())


@pytest.mark.training
def test_routed_experts_are_measured_under_the_checkpoints_names(tiny_olmoe, sentences):
    checkpoint = open_checkpoint(tiny_olmoe)
    _, loss_reductions = run_trial(checkpoint, sentences, SHORT)
    assert loss_reductions.keys() == {site.name for site in uniform(tiny_olmoe, "rank 1", max_experts=1).sites}
    assert sum(".experts." in name and one.mean != 0 for name, one in loss_reductions.items()) > 2


def test_too_few_examples_are_one_line(tiny_llama, tmp_path):
    write_rows(tmp_path / "few.jsonl", [{"text": f"read the file {number}"} for number in range(9)])
    with pytest.raises(InputError, match=r"few.jsonl: 9 examples are too few to keep a tenth for validation"):
        run_trial(open_checkpoint(tiny_llama), tmp_path / "few.jsonl", SHORT)


@pytest.mark.training
def test_the_short_run_trains_uniform_lora_and_keeps_a_sample_back(tiny_llama, sentences, tmp_path):
    model, sample = short_run(open_checkpoint(tiny_llama), sentences, SHORT, "cpu")
    assert {mixture.ranks for mixture in model.modules() if hasattr(mixture, "ranks")} == {(RANK,)}
    assert any(parameter.abs().sum() > 0 for name, parameter in model.named_parameters() if name.endswith(".B"))
    assert sum(len(batch["labels"]) for batch in sample) == 4 <= MEASURED
    assert len(sample) == 4 < LEAST_BATCHES  # a batch for each example, as there are fewer than that


@pytest.mark.training
def test_a_trial_run_that_diverges_is_one_line(tiny_llama, sentences):
    with pytest.raises(InputError, match=r"loss is (nan|inf) at step \d+; lower the learning rate|a loss that is not finite"):
        run_trial(open_checkpoint(tiny_llama), sentences, SHORT.model_copy(update={"learning_rate": 1e30, "max_steps": 8}))
