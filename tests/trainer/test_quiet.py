"""Silencing other libraries: everything below an error, and only where it is asked for."""

import logging
import os
import subprocess
import sys

import datasets
import pytest
import transformers
import transformers.modeling_gguf_pytorch_utils as gguf

from trainer.quiet import quiet_bitsandbytes, quiet_libraries


@pytest.fixture
def restored(monkeypatch):
    """Give other tests their libraries' voices back."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "")
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    monkeypatch.setattr(gguf, "tqdm", gguf.tqdm)
    levels = transformers.utils.logging.get_verbosity(), datasets.logging.get_verbosity()
    bars = datasets.are_progress_bars_disabled()
    theirs = logging.getLogger("bitsandbytes").level
    yield
    transformers.utils.logging.set_verbosity(levels[0])
    transformers.utils.logging.enable_progress_bar()
    datasets.logging.set_verbosity(levels[1])
    if not bars:
        datasets.enable_progress_bars()
    logging.getLogger("bitsandbytes").setLevel(theirs)
    os.environ.pop("TOKENIZERS_PARALLELISM", None)


def test_only_errors_of_other_libraries_are_heard(restored, capsys):
    quiet_libraries()
    assert list(gguf.tqdm(range(3), desc="Converting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    assert transformers.utils.logging.get_verbosity() == logging.ERROR
    assert not transformers.utils.logging.is_progress_bar_enabled()
    assert datasets.logging.get_verbosity() == logging.CRITICAL
    assert datasets.are_progress_bars_disabled()
    assert logging.getLogger("bitsandbytes").level == logging.ERROR
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_a_choice_of_the_users_is_kept(restored, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    quiet_libraries()
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_bitsandbytes_is_silenced_without_being_loaded(restored):
    quiet_bitsandbytes()
    assert logging.getLogger("bitsandbytes").level == logging.ERROR


@pytest.mark.training
def test_a_program_that_imports_the_trainer_keeps_its_own_settings():
    script = (
        "import transformers, datasets\n"
        "before = transformers.utils.logging.get_verbosity(), datasets.logging.get_verbosity()\n"
        "from trainer import train, evaluate, compare\n"
        "assert before == (transformers.utils.logging.get_verbosity(), datasets.logging.get_verbosity())\n"
        "assert not datasets.are_progress_bars_disabled()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
