"""The folder of a run: claimed once, resumed from its newest whole checkpoint, left clean by a run that fails early."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spectra import InputError
from spectra.core.distributed import is_main_process
from spectra.core.files import read_json, write_atomic
from trainer.run_folder import CHECKPOINTS, MANIFEST, SIZES
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
        if (manifest.exists() or (output / CHECKPOINTS).exists()) and not resume:
            raise InputError(f"{output}: already holds a run; add `resume` to go on with it, or choose another folder")
        if manifest.exists() and json.dumps(read_json(manifest), sort_keys=True, indent=1) + "\n" != text:
            raise InputError(f"{output}: holds a run of another plan, model, data or settings; choose another folder")
        write_atomic(manifest, text)
    # Every process looks for itself, once the main one has passed; all see the same folder.
    whole = [path for path in output.glob(f"{CHECKPOINTS}/checkpoint-*") if _is_whole(path)]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, from its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and nothing in it has been lost since."""
    try:
        sizes = read_json(checkpoint / SIZES)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (InputError, OSError):
        return False


@contextmanager
def tidy(output: Path) -> Iterator[None]:
    """Say in one line that the disk is full, and leave nothing behind of a run that failed before its first checkpoint."""
    try:
        yield
    # Ctrl-C included: a run that was interrupted before its first checkpoint can be started again with the same command.
    except BaseException as error:
        if is_main_process() and not any(_is_whole(path) for path in output.glob(f"{CHECKPOINTS}/checkpoint-*")):
            shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
            (output / MANIFEST).unlink(missing_ok=True)
            if not any(output.iterdir()):
                output.rmdir()
        if isinstance(error, RuntimeError) and "inline_container" in str(error):  # torch's way to say that a write failed
            raise InputError(f"{output / CHECKPOINTS}: a checkpoint cannot be written; is the disk full?") from None
        raise
