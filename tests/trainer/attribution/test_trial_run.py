"""Trial runs: from a file to every module's loss reduction."""

import math

import pytest
import torch

from planner.sensitivity.report import COMPLETE
from spectra import InputError, open_checkpoint
from tests.trainer.examples import uniform, write_rows
from trainer import TrainSettings
from trainer.attribution.attribution import MOST, POINTS
from trainer.attribution.trial_run import LEAST_BATCHES, MEASURED, RANK, STEPS, _agreement, run_trial, short_run
from trainer.data import storage

SHORT = TrainSettings(max_steps=4, batch_size=8, max_length=16, learning_rate=0.02)


def test_language_models_are_tried_by_default_and_classifiers_are_not():
    assert STEPS == {"causal": 30, "classification": 0}


@pytest.mark.training
def test_a_trial_run_measures_every_site_and_leaves_nothing(tiny_llama, sentences, tmp_path, monkeypatch):
    storage.folder()  # the process's own, wherever it is
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = []
    found, loss_reductions = run_trial(
        open_checkpoint(tiny_llama), sentences, SHORT, progress=lambda done, total=None, note="": seen.append((done, total))
    )
    again, same = run_trial(open_checkpoint(tiny_llama), sentences, SHORT)
    assert found.seconds > 0
    assert (found.model_copy(update={"seconds": again.seconds}), loss_reductions) == (again, same)
    assert found.loss_reduction.error > 0
    assert len(loss_reductions) == 14
    assert found.loss_reduction.mean == pytest.approx(sum(one.mean for one in loss_reductions.values()), rel=1e-9)
    assert (found.steps, found.examples) == (4, 4)
    assert (found.points - POINTS) % (2 * POINTS) == 0
    measured = range(POINTS, found.points + 1, POINTS)
    assert seen == [(done, 4 + MOST) for done in (1, 2, 3, 4, *(4 + points for points in measured), 4 + MOST)]
    assert found.points == MOST or 0 <= found.gap <= COMPLETE
    assert -1 <= found.agreement <= 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shares", "agreement"),
    [
        ([[1, 2, 30, 40], [2, 3, 30, 90]], 0.6),  # -1/3, 1/3, -1/7, 1/7 and -1/5, 1/5, -1/2, 1/2
        ([[1, 2, 30, 40], [4, 2, 70, 50]], -1.0),
        ([[2, 2, 30, 40], [4, 2, 70, 50], [0, 2, 30, 40], [4, 2, 70, 50]], -1.0),  # every other batch is of one half
        ([[1, 2, 30, 40]], math.nan),
    ],
)
def test_two_halves_of_the_batches_rank_the_modules_within_their_types(shares, agreement):
    names = ["layers.0.q", "layers.1.q", "layers.0.up", "layers.1.up"]
    found = _agreement(torch.tensor(shares, dtype=torch.float64), names)
    assert found == pytest.approx(agreement, nan_ok=True)


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
