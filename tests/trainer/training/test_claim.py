"""A run's folder: which checkpoints count, and what a failure leaves of it. Whole runs are in test_train.py."""

import json

import pytest

from spectra import InputError
from trainer.run_folder import CHECKPOINTS, MANIFEST, SIZES
from trainer.training.claim import step_of, tidy


def checkpoint(output, step, content=b"1234"):
    folder = output / CHECKPOINTS / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "state").write_bytes(content)
    (folder / SIZES).write_text(json.dumps({"state": len(content)}))
    return folder


def test_checkpoints_are_told_apart_by_their_step(tmp_path):
    assert sorted(map(step_of, (checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)))) == [9, 10]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_before_the_first_checkpoint_leaves_nothing(tmp_path, error):
    output = tmp_path / "run"
    output.mkdir()
    (output / MANIFEST).write_text("{}")
    (output / CHECKPOINTS).mkdir()
    with pytest.raises(error), tidy(output):
        raise error
    assert not output.exists()


def test_a_failure_leaves_whole_checkpoints_and_not_cut_ones_alone(tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    whole = checkpoint(tmp_path, 3)
    with pytest.raises(ValueError, match="cut"), tidy(tmp_path):
        raise ValueError("cut")
    assert whole.is_dir()
    (whole / "state").write_bytes(b"12")
    with pytest.raises(ValueError, match="cut"), tidy(tmp_path):
        raise ValueError("cut")
    assert not whole.exists()
    assert not (tmp_path / MANIFEST).exists()


def test_torchs_way_to_say_that_a_disk_is_full_is_one_line(tmp_path):
    checkpoint(tmp_path, 3)
    with pytest.raises(InputError, match="a checkpoint cannot be written; is the disk full"), tidy(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
