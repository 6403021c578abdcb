"""A run's folder: which checkpoints count, and what a failure leaves of it. Whole runs are in test_train.py."""

import json

import pytest

from spectra import InputError
from trainer.run_folder import CHECKPOINTS, HASHES, MANIFEST, WEIGHTS
from trainer.training.claim import is_whole, seal, step_of, taken_up, tidy


def checkpoint(output, step, content=b"1234"):
    folder = output / CHECKPOINTS / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(content)
    (folder / "state").write_bytes(content)
    seal(folder)
    return folder


def test_checkpoints_are_told_apart_by_their_step(tmp_path):
    assert sorted(map(step_of, (checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)))) == [9, 10]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WEIGHTS, b"12345"), (WEIGHTS, b"1235"), ("state", b"\0\0\0\0"), ("state", None), (HASHES, b"[]"), (HASHES, b"{}"),
        (HASHES, b'"text"'), (HASHES, None), (HASHES, b'{"adapter_model.safetensors": 4}'), (HASHES, b"\xff"),
        (HASHES, json.dumps({"../../outside": "0"}).encode()),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_passed_over_whatever_its_size(tmp_path, name, content):
    folder = checkpoint(tmp_path, 3)
    assert is_whole(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert not is_whole(folder)


def test_what_fails_before_a_checkpoints_first_step_is_the_checkpoints_fault(tmp_path):
    folder = checkpoint(tmp_path, 3)
    with (
        pytest.raises(InputError, match=r"checkpoint-3: cannot be gone on from: bad state; remove it to go on"),
        taken_up(folder, lambda: 3),
    ):
        raise TypeError("bad state")
    for last, done in ((folder, 4), (None, 0)):
        with pytest.raises(ValueError, match="ours"), taken_up(last, lambda done=done: done):
            raise ValueError("ours")


def test_too_little_memory_is_one_line(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="out of memory: lower `batch_size`"), tidy(tmp_path):
        raise MemoryError


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
