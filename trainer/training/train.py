"""The training run: a plan, a model and dataset files in, a folder of adapters and a RunReport out.

A run is checked before anything is written (training/prepare.py), its folder claimed (training/claim.py), and trained by
transformers.Trainer's loop (training/loop.py). Here these are put together and the run is reported.
"""

import math
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainingArguments

from planner import Plan
from planner.modules.checkpointing import recompute
from planner.plan import TrainingHints
from spectra import Checkpoint, InputError, open_checkpoint
from spectra.core.files import read_json, require_place
from spectra.core.locks import held
from spectra.core.log import warnings_only
from spectra.core.progress import Progress, silent
from spectra.report import ModelInfo
from trainer.adapters.store import build, save_adapters
from trainer.base_model import head
from trainer.data.dataset import collator
from trainer.data.split import split
from trainer.layers.base_routers import router_parameters
from trainer.limits import DivergedError
from trainer.report import GrowthHistory, RateSearch, RunReport
from trainer.run_folder import BEST, HISTORY, MANIFEST, REPORT
from trainer.settings import DataSettings, TrainSettings
from trainer.training.claim import claim, step_of, taken_up, tidy
from trainer.training.effects import GROWTH, USUAL
from trainer.training.growth import Growth
from trainer.training.loop import (
    AdapterTrainer,
    MonitorCallback,
    RouterCallback,
    arguments,
    curve,
    evaluations,
)
from trainer.training.memory import FreedMemoryCallback, peak_memory, restart_peak
from trainer.training.prepare import Run, prepare, with_hints
from trainer.training.rate import search as find_rate
from trainer.training.routing_notes import collapsed, idle_experts, overflowing, told_idle
from trainer.training.sharding import shard

HELD_OUT = 200  # examples that tell learning rates apart
Files = str | Path | Sequence[str | Path]


def train(
    plan: Plan,
    model: str | Path,
    data: Files,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    weights: Sequence[float] | None = None,
    evaluation: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> RunReport:
    """Build the planned mixture of LoRA experts on a model and fine-tune it.

    Args:
        plan: what to build.
        model: the base model, a folder or a hub id.
        data: a dataset file, or several as a mixture of tasks; their columns decide the task.
        output: the run's folder.
        settings: how to train.
        weights: how often each file is drawn from; by default all examples of all files, once an epoch.
        evaluation: a held-out file that is scored during the run; the best adapters are kept beside the last.
        resume: go on from the newest checkpoint in `output`, if there is one.
        progress: told after each step, with the last loss that was logged.

    Raises:
        InputError: a plan or file that does not fit, a folder that already holds a run, or a loss that is not finite.
    """
    files = [Path(file) for file in ([data] if isinstance(data, str | Path) else data)]
    # Whatever can be refused is refused before the folder is claimed, so that a mistake leaves nothing behind.
    output, checkpoint, settings = Path(output), open_checkpoint(model), with_hints(settings or TrainSettings(), plan)
    found = None
    if settings.learning_rate == "auto":
        settings, found = _with_rate(plan, checkpoint, files, weights, settings, output if resume else None, progress)
    run = prepare(plan, checkpoint, files, weights, evaluation, settings, _noted(output) if resume else None)
    return _fit(run, output, resume, progress, search=found)[0]


def train_loaded(
    plan: Plan, checkpoint: Checkpoint, base: Any, data: Path, output: Path, settings: TrainSettings, progress: Progress = silent
) -> Any:
    """`train` on a base model that is loaded already, in the settings' precision: it becomes the trained one, which is returned.

    Raises:
        InputError: see `train`.
    """
    return _fit(prepare(plan, checkpoint, [data], None, None, settings), output, False, progress, base)[1]


def _noted(output: Path) -> DataSettings | None:
    """How the data of the run in a folder became tokens; None where there is none, or one that `claim` will refuse."""
    noted = read_json(output / MANIFEST) if (output / MANIFEST).is_file() else None
    try:
        return DataSettings.model_validate(noted["data"]) if isinstance(noted, dict) else None
    except (KeyError, ValueError):
        return None


def _with_rate(
    plan: Plan,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    weights: Sequence[float] | None,
    settings: TrainSettings,
    begun: Path | None,
    progress: Progress,
) -> tuple[TrainSettings, RateSearch | None]:
    """The settings with the rate of the run that was begun, or else with one that is searched for now."""
    if begun is not None and (begun / MANIFEST).is_file():
        noted = read_json(begun / MANIFEST)
        rate = noted.get("learning_rate") if isinstance(noted, dict) else None
        if not isinstance(rate, float):
            raise InputError(f"{begun / MANIFEST}: notes no learning rate; choose another folder")
        return settings.model_copy(update={"learning_rate": rate}), None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("`learning_rate` auto is searched for by one process; find it in one, then give it to several")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, warnings_only():
        parts = [split(file, Path(folder), number) for number, file in enumerate(files)]
        held = Path(folder) / "held-out.jsonl"
        # All files' held-out tenths together have one format only if the files have; the first stands for a mixture.
        held.write_text("".join(parts[0][1].read_text().splitlines(keepends=True)[:HELD_OUT]))

        alone = settings.model_copy(update={"evaluations": USUAL.evaluations, "patience": 0})
        whole = prepare(plan, checkpoint, files, weights, None, alone)
        settings = settings.model_copy(update=dict(whole.config.data))

        def loss_of(rate: float, steps: int) -> float:
            # What depends on the length of the run, or writes elsewhere, is left out.
            changed = {
                "learning_rate": rate,
                "max_steps": steps,
                "epochs": USUAL.epochs,
                "evaluations": 1,
                "grow": False,
                "patience": 0,
                "report_to": "none",
                # Of a warm-up in steps the share that it has of the run itself.
                "warmup": settings.warmup if settings.warmup < 1 else min(settings.warmup / whole_steps, 0.99),
            } | {name: getattr(USUAL, name) for name in GROWTH}
            trial = settings.model_copy(update=changed)
            run = prepare(plan, checkpoint, [train for train, _ in parts], weights, held, trial)
            progress(0, None, f"trying learning rate {rate:g} for {steps} steps")
            try:
                return _fit(run, Path(folder) / f"{rate}-{steps}", False, silent)[0].evaluations[-1].loss
            except DivergedError:
                return math.inf

        whole_steps = arguments(
            Path(folder), settings.model_copy(update={"learning_rate": 1.0}), len(whole.examples.rows), False
        ).max_steps
        found = find_rate(loss_of, whole_steps)
    found = found.model_copy(update={"seconds": time.monotonic() - started})
    return settings.model_copy(update={"learning_rate": found.learning_rate}), found


def _fit(
    run: Run, output: Path, resume: bool, progress: Progress, base: Any = None, search: RateSearch | None = None
) -> tuple[RunReport, Any]:
    """Build, claim the folder, train, report and save, with the folder held for this run alone."""
    _require_own_folder(output, run.checkpoint)
    made = arguments(output, run.settings, len(run.examples.rows), run.evaluation is not None)
    # One of several processes holds it for all of them, which share the folder.
    with held(output, "trains in this folder") if made.process_index == 0 else nullcontext():
        return _fit_held(run, output, resume, progress, made, base, search)


def _require_own_folder(output: Path, checkpoint: Checkpoint) -> None:
    """Refuse the model's own folder: transformers would take the run's adapters for a part of the model."""
    if require_place(output) == checkpoint.folder.resolve():
        raise InputError(f"{output}: the folder of the model itself; choose another for the run")


def _fit_held(
    run: Run, output: Path, resume: bool, progress: Progress, made: TrainingArguments, base: Any, search: RateSearch | None
) -> tuple[RunReport, Any]:
    plan, settings = run.plan, run.settings
    restart_peak()
    built = build(run.checkpoint, plan, run.config, run.config.precision, base)
    if settings.gradient_checkpointing:
        recompute(built)
    # Growth replaces A and B, so it comes before sharding and the optimiser, which know parameters by identity.
    growth = _growth(run, built, made) if settings.grow else None
    if settings.shard:
        shard(built, made.device, made.world_size)
    # The main process writes the manifest or refuses before any other looks; one for all machines, which share the folder.
    with made.main_process_first(local=False):
        last = claim(output, run, resume, made.process_index == 0)
    if resume and (output / REPORT).is_file():  # the run is finished, whatever is left of its checkpoints
        return RunReport.load(output / REPORT), built
    keep_best = partial(save_adapters, output / BEST, plan=plan, config=run.config)
    trainer = _trainer(run, built, made, growth, MonitorCallback(built, progress, settings.patience, keep_best))
    begun = time.monotonic()
    with tidy(output):
        with taken_up(last, lambda: trainer.state.global_step):
            if last and step_of(last) >= made.max_steps:  # transformers would train one step more
                trainer.restore(last)
            else:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        report = _report(run, trainer, math.nan if last else time.monotonic() - begun, search)
        plan = _trained_plan(plan, settings, growth, search)
        save_adapters(output, trainer.model, plan, run.config)
    if trainer.is_world_process_zero():
        if growth:
            GrowthHistory(events=tuple(growth.history)).save(output / HISTORY)
        # Last of all: a folder with a report counts as finished.
        report.save(output / REPORT)
    return report, trainer.model


def _growth(run: Run, model: nn.Module, made: TrainingArguments) -> Growth:
    return Growth(model, run.plan, made.max_steps, run.settings, begin=int(made.warmup_steps), seed=run.settings.seed)


def _trained_plan(plan: Plan, settings: TrainSettings, growth: Growth | None, search: RateSearch | None) -> Plan:
    """The plan with the ranks that it grew and the learning rate that was found for it."""
    if growth:
        plan = growth.finish(plan, settings.alpha)
    if search:
        # The others too, because a rate holds for what it was found with.
        beside = {name: getattr(settings, name) for name in ("lr_ratio", "alpha", "init")}
        found = f"successive halving, {search.steps} steps in all"
        hints = TrainingHints(learning_rate=search.learning_rate, found=found, **beside)
        plan = plan.model_copy(update={"training": hints})
    return plan


def _trainer(
    run: Run, model: nn.Module, made: TrainingArguments, growth: Growth | None, monitor: MonitorCallback
) -> AdapterTrainer:
    trainer = AdapterTrainer(
        model=model,
        args=made,
        train_dataset=run.examples.rows,
        eval_dataset=run.evaluation.rows if run.evaluation else None,
        data_collator=collator(run.config.task, run.tokenizer),
        # Growth saves first: the monitor notes what a checkpoint holds.
        callbacks=[
            *([growth] if growth else []),
            *([RouterCallback(model, int(made.warmup_steps))] if run.config.mixture.train_router else []),
            monitor,
            FreedMemoryCallback(),
        ],
        growth=growth,
        settings=run.settings,
    )
    # Without its progress bar the Trainer prints every log line instead.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _report(run: Run, trainer: AdapterTrainer, seconds: float, search: RateSearch | None) -> RunReport:
    state = trainer.state
    scored = evaluations(state.log_history)
    # What has been recorded since the last log, or if the log took it all, what it took.
    health = (trainer.router_state.health() if trainer.router_state else ()) or trainer.health
    # Before padding. A run may stop in the middle of an epoch, so the mean length stands for the tokens that were seen.
    lengths = [len(tokens) for tokens in run.examples.rows["input_ids"]]
    tokens = sum(lengths) / len(lengths) * run.settings.batch_size * state.global_step
    return RunReport(
        model=ModelInfo.of(run.checkpoint),
        strategy=run.plan.strategy,
        settings=run.settings,
        rate_search=search,
        examples=len(run.examples.rows),
        truncated=run.examples.truncated,
        dropped=run.examples.dropped,
        steps=state.global_step,
        adapter_parameters=run.plan.parameters,
        head_parameters=sum(parameter.numel() for parameter in head(trainer.model).values()),
        base_router_parameters=sum(parameter.numel() for parameter in router_parameters(trainer.model)),
        curve=curve(state.log_history),
        evaluations=scored,
        best_step=min(scored, key=lambda point: point.loss).step if scored else None,
        routers=health,
        idle=(untouched := idle_experts(trainer.model)),
        notes=(*collapsed(health), *overflowing(health), *told_idle(untouched, trainer.model)),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        peak_memory=peak_memory(),
    )
