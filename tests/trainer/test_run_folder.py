"""The names of a run's files: PEFT's where PEFT reads them, and no file that is not in the list."""

import shutil

import peft.utils
import pytest

from trainer import evaluate, run_folder, train

NAMES = {name: value for name, value in vars(run_folder).items() if name.isupper() and name != "OWN"}


def test_no_two_files_share_a_name():
    assert len(set(NAMES.values())) == len(NAMES) == 12


def test_peft_finds_its_files_by_its_own_names():
    assert run_folder.WEIGHTS == peft.utils.SAFETENSORS_WEIGHTS_NAME
    assert run_folder.PEFT_CONFIG == peft.utils.CONFIG_NAME


@pytest.mark.training
def test_a_run_writes_what_is_listed_and_nothing_else(run, small_corpus, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    evaluate(copy, small_corpus[1]).save(copy / run_folder.EVALUATION)
    written = {path.name for path in copy.iterdir()}
    assert written == {
        NAMES[name] for name in ("WEIGHTS", "PEFT_CONFIG", "CONFIG", "PLAN", "REPORT", "EVALUATION", "MANIFEST", "CHECKPOINTS")
    }
    for checkpoint in (copy / run_folder.CHECKPOINTS).iterdir():
        assert {run_folder.HASHES, run_folder.WEIGHTS} <= {path.name for path in checkpoint.iterdir()}


@pytest.mark.training
def test_a_run_that_was_watched_also_keeps_its_best(lora_plan, tiny_llama, sentences, tmp_path):
    from tests.trainer.examples import SHORT

    train(lora_plan, tiny_llama, sentences, tmp_path / "run", SHORT, evaluation=sentences)
    best = {path.name for path in (tmp_path / "run" / run_folder.BEST).iterdir()}
    assert best == {NAMES[name] for name in ("WEIGHTS", "PEFT_CONFIG", "CONFIG", "PLAN")}
