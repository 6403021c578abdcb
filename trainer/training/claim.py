"""The folder of a run: claimed once, resumed from its newest whole checkpoint, left clean by a run that fails early."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from spectra import InputError
from spectra.core.distributed import is_main_process
from spectra.core.errors import first_line
from spectra.core.files import read_json, write_atomic
from trainer.limits import DivergedError
from trainer.run_folder import CHECKPOINTS, HASHES, MANIFEST, REPORT, WEIGHTS
from trainer.training.prepare import Run


def claim(output: Path, run: Run, resume: bool, first: bool) -> Path | None:
    """Take a folder for this run, or find the checkpoint to go on from; of several processes only the first one writes.

    Raises:
        InputError: the folder holds a run and `resume` is not asked for, or it holds a run of another plan, data or settings.
    """
    manifest = output / MANIFEST
    mine = run.settings.model_dump(mode="json") | run.config.model_dump(mode="json") | {"plan": run.plan.model_dump(mode="json")}
    text = json.dumps(mine | {"data_sha256": run.data_sha256}, sort_keys=True, indent=1) + "\n"
    if first:
        # A run that was killed before its first checkpoint leaves a manifest only; `resume` then starts it over.
        if any((output / name).exists() for name in (MANIFEST, CHECKPOINTS, REPORT)) and not resume:
            raise InputError(f"{output}: already holds a run; add `resume` to go on with it, or choose another folder")
        if manifest.exists() and json.dumps(read_json(manifest), sort_keys=True, indent=1) + "\n" != text:
            raise InputError(f"{output}: holds a run of another plan, model, data or settings; choose another folder")
        if not manifest.exists() and (output / REPORT).exists():
            raise InputError(f"{output}: holds a run without its {MANIFEST}, so nobody can say what of; choose another folder")
        write_atomic(manifest, text)
    # Every process looks for itself, once the main one has passed; all see the same folder.
    whole = [path for path in output.glob(f"{CHECKPOINTS}/checkpoint-*") if is_whole(path)]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def seal(checkpoint: Path) -> None:
    """Note the hashes of a checkpoint's files, after the last of them was written."""
    hashes = {path.name: _sha256(path) for path in sorted(checkpoint.iterdir()) if path.name != HASHES}
    write_atomic(checkpoint / HASHES, json.dumps(hashes, indent=1) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and nothing in it has changed since."""
    try:
        hashes = read_json(checkpoint / HASHES)
        return (
            isinstance(hashes, dict)
            and WEIGHTS in hashes
            and all(
                # A name alone: nothing outside the checkpoint is looked at.
                Path(name).name == name and _sha256(checkpoint / name) == found
                for name, found in hashes.items()
            )
        )
    except (InputError, OSError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def tidy(output: Path) -> Iterator[None]:
    """Say in one line that the disk or the memory is full, and leave nothing of a run that is lost."""
    try:
        yield
    # Ctrl-C included: a run that was interrupted before its first checkpoint can be started again with the same command.
    except BaseException as error:
        # Nothing of a run that diverged is of use either: gone on from, it would diverge again.
        lost = isinstance(error, DivergedError) or not any(is_whole(path) for path in output.glob(f"{CHECKPOINTS}/checkpoint-*"))
        if is_main_process() and lost:
            shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
            (output / MANIFEST).unlink(missing_ok=True)
            if output.is_dir() and not any(output.iterdir()):
                output.rmdir()
        if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's way to say that a write failed
            raise InputError(f"{output / CHECKPOINTS}: a checkpoint cannot be written; is the disk full?") from None
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise InputError(
                "out of memory: lower `batch_size` or `max_length`, raise `accumulation`, or set `gradient_checkpointing`"
            ) from None
        raise


@contextmanager
def taken_up(checkpoint: Path | None, steps: Callable[[], int]) -> Iterator[None]:
    """Say in one line that a checkpoint cannot be gone on from: whatever fails before its first step is the checkpoint's fault.

    Args:
        checkpoint: what a run goes on from; None for one that begins.
        steps: how many the run has done.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if checkpoint is None or steps() > step_of(checkpoint):
            raise
        raise InputError(
            f"{checkpoint}: cannot be gone on from: {first_line(error)}; remove it to go on from the one before"
        ) from None
