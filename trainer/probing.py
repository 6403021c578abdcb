"""What `plan probe` does: sampled gradients of every task and, for a language model, a trial run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from planner import SensitivityReport, join, probe
from spectra import Checkpoint
from spectra.core.log import LOG
from spectra.core.progress import Progress, silent
from trainer.attribution.attribution import POINTS
from trainer.attribution.trial_run import MEASURED, STEPS, run_trial
from trainer.data.sampling import load_sample
from trainer.settings import ProbeSettings, TrainSettings

Stage = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress display under a title, for as long as a stage of the work takes."""


def _unseen(_title: str) -> AbstractContextManager[Progress]:
    return nullcontext(silent)


def measure(
    checkpoint: Checkpoint,
    files: Sequence[Path],
    settings: ProbeSettings | None = None,
    *,
    device: str = "cpu",
    stage: Stage = _unseen,
) -> SensitivityReport:
    """Estimate how much each linear module of a model matters for some tasks.

    Args:
        checkpoint: the base model.
        files: a dataset file for each task.
        settings: how many examples, and how long a trial run.
        device: where to run the model.
        stage: shows how far each stage is.

    Raises:
        InputError: an unusable file or model, or a trial run that diverges.
    """
    measured = partial(_task, checkpoint, settings=settings or ProbeSettings(), device=device, stage=stage)
    return join([measured(file) for file in files])


def _task(checkpoint: Checkpoint, file: Path, settings: ProbeSettings, device: str, stage: Stage) -> SensitivityReport:
    drawn = {name: getattr(settings, name) for name in ("samples", "seed", "precision")}
    sample = load_sample(checkpoint, file, **drawn, settings=settings.data(), device=device)
    steps = STEPS[sample.task] if settings.trial_steps is None else settings.trial_steps
    # Three parts of the way are usual; a forward pass costs a third of what slopes cost.
    tried = steps * settings.batch_size + (5 * POINTS + 1) * MEASURED if steps else 0
    also = f", then a trial run on {tried}" if tried else ""
    LOG.info(
        f"{file.stem}: gradients of {sample.examples} examples{also}; about the time of training on {sample.examples + tried}"
    )
    with stage(f"gradients of {file.stem}") as progress:
        report = probe(
            sample.model,
            sample.batches,
            checkpoint=checkpoint,
            task=file.stem,
            modules=settings.modules,
            gradient_checkpointing=settings.gradient_checkpointing,
            effective_rank=settings.effective_rank,
            progress=lambda done, _total=None, note="": progress(done, sample.examples, note),
        )
    if not steps:
        return report
    shared = {name: getattr(settings, name) for name in ProbeSettings.model_fields if name in TrainSettings.model_fields}
    with stage(f"trial run of {file.stem}") as progress:
        return report.with_trial_run(
            *run_trial(
                checkpoint,
                file,
                TrainSettings(max_steps=steps, **shared),
                modules=settings.modules,
                base=sample.model,
                device=device,
                progress=progress,
            )
        )
